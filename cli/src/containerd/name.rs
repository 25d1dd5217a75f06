//! Names of images as people write them.

/// The full name of an image, as `nerdctl` and Docker find it: `debian` is `docker.io/library/debian:latest`. Registry,
/// repository and tag or digest are taken apart as in the distribution project's reference grammar.
pub(crate) fn normalize(name: &str) -> String {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let last = path.rsplit('/').next().unwrap_or_default();
    let tag = if last.contains([':', '@']) { "" } else { ":latest" };
    format!("{registry}/{path}{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_nerdctl_does() {
        for (short, full) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:13", "docker.io/library/debian:13"),
            ("someone/tool", "docker.io/someone/tool:latest"),
            ("registry.example/a/b:1", "registry.example/a/b:1"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("debian@sha256:00", "docker.io/library/debian@sha256:00"),
        ] {
            assert_eq!(normalize(short), full);
        }
    }
}
