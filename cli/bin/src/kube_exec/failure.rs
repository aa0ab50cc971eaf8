//! Errors of an API server as sentences with a remedy.

use std::io;

use kube::Error;

/// What happened to a request. A refusal names the right that is missing, in the API server's words.
pub(crate) fn sentence(error: &Error) -> String {
    match error {
        Error::Api(status) if status.code == 403 => {
            format!(
                "{}: give this right to the user (docs/kubernetes.md, \"Commands\")",
                status.message
            )
        }
        Error::Api(status) if status.code == 401 => {
            "the API server does not know the user of the context: its credentials are not valid"
                .into()
        }
        Error::Api(status) if status.message.is_empty() => {
            format!("the API server refuses it (HTTP {})", status.code)
        }
        Error::Api(status) => status.message.clone(),
        error => format!("the API server does not answer: {}", innermost(error)),
    }
}

/// What happened to a command that was to run in a pod. The API server asks for two rights, and does not name the second.
pub(crate) fn of_exec(error: &Error, namespace: &str) -> String {
    match error {
        Error::Api(status) if status.code == 403 => format!(
            "commands in pods are forbidden: give the user create and get of pods/exec in the namespace {namespace} (docs/kubernetes.md, \"Commands\")"
        ),
        error => sentence(error),
    }
}

fn innermost(error: &Error) -> String {
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    match innermost.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "nothing listens at its address".into(),
        Some(io::ErrorKind::TimedOut) => "its address does not answer".into(),
        _ => innermost.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_names_the_missing_right() {
        let refused = |code, message: &str| {
            Error::Api(Status { code, message: message.into(), ..Status::default() }.boxed())
        };
        let message = "pods \"x\" is forbidden: User \"dev\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"clustermesh-system\"";
        let said = sentence(&refused(403, message));
        assert!(
            said.contains("cannot create resource \"pods/exec\"")
                && said.contains("give this right"),
            "{said}"
        );
        let said = of_exec(&refused(403, "pods \"x\" is forbidden: "), "mesh");
        assert!(said.contains("create and get of pods/exec in the namespace mesh"), "{said}");
        assert_eq!(of_exec(&refused(404, "pods \"x\" not found"), "mesh"), "pods \"x\" not found");
        assert!(sentence(&refused(401, "Unauthorized")).contains("credentials"));
        assert_eq!(sentence(&refused(404, "pods \"x\" not found")), "pods \"x\" not found");
        assert_eq!(sentence(&refused(500, "")), "the API server refuses it (HTTP 500)");
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(
            sentence(&Error::Service(source.into())).ends_with("nothing listens at its address")
        );
    }
}
