use super::*;

/// An answer of the kernel's (6.18), put down by hand from `linux/inet_diag.h`: a UDP socket of 10.1.0.2:40000 that is
/// connected to 10.2.0.9:53.
fn listed(sequence: u32) -> Vec<u8> {
    let mut body = vec![2, 1, 0, 0];
    body.extend([0x9c, 0x40, 0, 53]);
    body.extend([[10, 1, 0, 2], [0; 4], [0; 4], [0; 4]].concat());
    body.extend([[10, 2, 0, 9], [0; 4], [0; 4], [0; 4]].concat());
    body.extend(0u32.to_ne_bytes());
    body.extend([0x1122_3344u32.to_ne_bytes(), 0x55u32.to_ne_bytes()].concat());
    body.extend([0; 20]);
    // INET_DIAG_SHUTDOWN, one byte.
    body.extend([5u16.to_ne_bytes(), 8u16.to_ne_bytes()].concat());
    body.extend([0; 4]);
    message(SOCK_DIAG_BY_FAMILY, 2, sequence, &body)
}

#[test]
fn a_listed_socket_is_named_to_the_kernel_as_the_kernel_named_it() {
    let mut received = listed(3);
    // Of another question, and then the end.
    received.extend(listed(2));
    received.extend(message(NLMSG_DONE, 2, 3, &0i32.to_ne_bytes()));
    let found: Vec<Answer> = answers(3, Protocol::Udp, &received).collect();
    let [Answer::Connection(socket), Answer::Done] = &found[..] else { panic!("{found:?}") };
    assert_eq!(socket.address, mapped([10, 2, 0, 9]));
    assert_eq!(socket.port, [0, 53]);
    assert_eq!(socket.cookie(), 0x55_1122_3344);
    let question = destroy(4, socket);
    assert_eq!(question[..4], 72u32.to_ne_bytes());
    assert_eq!(question[4..8], [21u16, 5].map(u16::to_ne_bytes).concat());
    assert_eq!(question[8..16], [4u32, 0].map(u32::to_ne_bytes).concat());
    assert_eq!(question[16..18], [2, 17]);
    assert_eq!(question[24..72], received[20..68]);
}

#[test]
fn an_error_is_its_number_and_what_is_cut_off_is_nothing() {
    let error = message(NLMSG_ERROR, 0, 1, &(-2i32).to_ne_bytes());
    assert_eq!(answers(1, Protocol::Tcp, &error).collect::<Vec<_>>(), [Answer::Result(2)]);
    let socket = listed(1);
    for length in 0..socket.len() {
        assert_eq!(answers(1, Protocol::Udp, &socket[..length]).count(), 0, "{length}");
    }
}

#[test]
fn connected_sockets_of_one_family_are_asked_for() {
    let question = list(9, AF_INET6, Protocol::Tcp);
    assert_eq!(question[..4], 72u32.to_ne_bytes());
    assert_eq!(question[4..8], [20u16, 0x301].map(u16::to_ne_bytes).concat());
    assert_eq!(question[16..20], [10, 6, 0, 0]);
    // ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT.
    assert_eq!(question[20..24], 0b1_0011_0110u32.to_ne_bytes());
}
