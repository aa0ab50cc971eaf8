//! Trying whether the kernel accepts the programs leaves nothing behind.

use std::fs;

use mesh_dataplane::try_kernel;

use crate::place::Place;

#[test]
fn a_trial_finds_this_kernel_fit_and_leaves_nothing() {
    let place = Place::new("trial");
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
    let before = mounts();
    let trial = try_kernel().unwrap();
    assert!(trial.programs.is_ok(), "{:?}", trial.programs);
    assert!(matches!(trial.socket_list, Some(Ok(()))), "{:?}", trial.socket_list);
    assert!(trial.probe_answer.is_ok(), "{:?}", trial.probe_answer);
    assert_eq!(mounts(), before, "a mount is left");
    let cgroups = fs::read_dir(place.cgroup.parent().unwrap()).unwrap().flatten();
    let ours = format!("clustermesh-check-{}", std::process::id());
    let mut left = cgroups.map(|entry| entry.file_name().into_string().unwrap());
    assert!(!left.any(|name| name == ours), "a cgroup is left");
}
