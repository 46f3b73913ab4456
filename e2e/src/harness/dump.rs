//! What a person wants to see when a test has failed.

use super::Environment;

/// Prints the pools, jobs, pods, events and logs of a namespace, and the operator's log.
pub(super) async fn namespace(environment: &Environment, namespace: &str) {
    let n = ["-n", namespace];
    let operator = ["-n", "buildpools-system"];
    let sections: [(&str, Vec<&str>); 7] = [
        ("pools", [&n[..], &["get", "buildpools", "-o", "yaml"]].concat()),
        ("jobs", [&n[..], &["get", "buildjobs", "-o", "yaml"]].concat()),
        ("objects", [&n[..], &["get", "statefulsets,pods,pvc,configmaps,networkpolicies", "-o", "wide"]].concat()),
        ("pods", [&n[..], &["describe", "pods"]].concat()),
        ("events", [&n[..], &["get", "events", "--sort-by=.lastTimestamp"]].concat()),
        ("operator pods", [&operator[..], &["get", "pods", "-o", "wide"]].concat()),
        (
            "operator log",
            [&operator[..], &["logs", "-l", "app.kubernetes.io/component=operator", "--tail=100", "--prefix"]].concat(),
        ),
    ];
    for (title, args) in sections {
        print(environment, title, &args).await;
    }
    let Ok(pods) = environment.kubectl(&["-n", namespace, "get", "pods", "-o", "name"]).await else { return };
    for pod in String::from_utf8_lossy(&pods.stdout).lines() {
        for container in ["buildkitd", "runner"] {
            let title = format!("{pod} {container}");
            print(environment, &title, &["-n", namespace, "logs", pod, "-c", container, "--tail=80"]).await;
        }
    }
}

async fn print(environment: &Environment, title: &str, args: &[&str]) {
    eprintln!("---- {title}");
    match environment.kubectl(args).await {
        Ok(output) => {
            eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => eprintln!("kubectl: {error}"),
    }
}
