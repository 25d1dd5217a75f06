//! Root file systems that containerd (2.2 and later) leaves to the shim to put together: a list of image files, one
//! mount each, and at its end an overlay whose options name them by their place in the list (`{{ mount 1 }}/upper`).
//! The VM is given the images, and its guest makes the overlay.

use std::path::{Component, Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use supermachine::UpperDirectories;

use super::{BundleError, RootLayers, Writable};

/// File systems of images that are read only.
const LAYERS: [&str; 2] = ["erofs", "squashfs"];
/// That of the writable image.
const UPPER: &str = "ext4";
/// What the last mount's type is made of: its options hold places, and directories are to be made; the guest does both.
const PREFIXES: [&str; 2] = ["format/", "mkdir/"];

/// Whether a mount is an image of a layer.
pub(crate) fn is_image(mount: &Mount) -> bool {
    LAYERS.contains(&mount.type_.as_str())
}

/// The disks of images with an overlay at the end, or of a single image.
pub(crate) fn assemble(mounts: &[Mount]) -> Result<RootLayers, BundleError> {
    if let [mount] = mounts {
        return Ok(RootLayers { layers: vec![Images(mounts).layer(0, 0, mount)?], ..Default::default() });
    }
    let Some((overlay, images)) = mounts.split_last() else {
        return Ok(RootLayers::default());
    };
    let (images, last) = (Images(images), images.len());
    let kind = PREFIXES.iter().fold(overlay.type_.as_str(), |kind, prefix| kind.strip_prefix(prefix).unwrap_or(kind));
    if kind != "overlay" {
        return Err(wrong(last, overlay, "only an overlay can put images together"));
    }
    let option = |name: &str| overlay.options.iter().find_map(|option| option.strip_prefix(name));
    let lower = option("lowerdir=").ok_or_else(|| wrong(last, overlay, "has no lowerdir"))?;
    let mut layers = Vec::new();
    // Overlay lists the top layer first.
    for place in lower.split(':').rev() {
        for number in places(place).ok_or_else(|| wrong(last, overlay, format_args!("can't read {place:?}")))? {
            layers.push(images.layer(last, number, overlay)?);
        }
    }
    let Some(upper) = option("upperdir=") else { return Ok(RootLayers { layers, ..Default::default() }) };
    let work = option("workdir=").ok_or_else(|| wrong(last, overlay, "has no workdir"))?;
    let within = |text: &str| {
        directory(text).ok_or_else(|| {
            let remedy =
                "a directory of the host can't be written to from a VM: have the snapshotter make an ext4 image";
            wrong(last, overlay, format_args!("can't write to {text:?}: {remedy}"))
        })
    };
    let ((number, files), (other, work)) = (within(upper)?, within(work)?);
    if number != other {
        return Err(wrong(last, overlay, "has its upperdir and workdir in different mounts"));
    }
    let upper = images.find(last, number, overlay, &[UPPER])?;
    Ok(RootLayers { layers, writable: Some(Writable::Image(upper, UpperDirectories { files, work })) })
}

/// Those that an overlay may name.
struct Images<'a>(&'a [Mount]);

impl Images<'_> {
    fn layer(&self, at: usize, number: usize, overlay: &Mount) -> Result<PathBuf, BundleError> {
        self.find(at, number, overlay, &LAYERS)
    }

    /// The file of mount `number`, which must be of one of these kinds, for the mount `at`.
    fn find(&self, at: usize, number: usize, overlay: &Mount, kinds: &[&str]) -> Result<PathBuf, BundleError> {
        let Some(image) = self.0.get(number) else {
            return Err(wrong(at, overlay, format_args!("names mount {number}, of {}", self.0.len())));
        };
        if !kinds.contains(&image.type_.as_str()) {
            return Err(wrong(number, image, format_args!("must be {} to be used so", kinds.join(" or "))));
        }
        // One that is missing would be made like a writable layer of our own.
        match Path::new(&image.source) {
            path if path.is_absolute() && path.is_file() => Ok(path.to_owned()),
            path => Err(wrong(number, image, format_args!("{} is no file", path.display()))),
        }
    }
}

/// The mounts that `{{ mount 3 }}` or `{{ overlay 3 1 }}` (3 on 2 on 1) stand for, lowest first.
fn places(text: &str) -> Option<Vec<usize>> {
    let words: Vec<&str> = text.strip_prefix("{{")?.strip_suffix("}}")?.split_whitespace().collect();
    match words[..] {
        ["mount", number] => Some(vec![number.parse().ok()?]),
        ["overlay", first, last] => {
            let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            let between = usize::from(first.min(last))..=usize::from(first.max(last));
            Some(if first >= last { between.collect() } else { between.rev().collect() })
        }
        _ => None,
    }
}

/// The mount and the directory at its root that `{{ mount 0 }}/upper` stands for.
fn directory(text: &str) -> Option<(usize, String)> {
    let (place, name) = text.split_at(text.find("}}")?.checked_add(2)?);
    let [number] = places(place)?[..] else { return None };
    let mut parts = Path::new(name.strip_prefix('/')?).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) => Some((number, name.to_str()?.to_owned())),
        _ => None,
    }
}

fn wrong(index: usize, mount: &Mount, problem: impl std::fmt::Display) -> BundleError {
    BundleError::Images { index, kind: mount.type_.clone(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &Path, options: &[&str]) -> Mount {
        let options = options.iter().map(ToString::to_string).collect();
        Mount { type_: kind.into(), source: source.display().to_string(), options, ..Default::default() }
    }

    /// An ext4 image, and three layers of which number 1 is on top.
    fn images(dir: &Path) -> Vec<Mount> {
        let image = |kind: &str, name: &str| {
            std::fs::write(dir.join(name), name).unwrap();
            mount(kind, &dir.join(name), &["loop"])
        };
        vec![image("ext4", "upper"), image("erofs", "c"), image("erofs", "b"), image("squashfs", "a")]
    }

    fn overlay(options: &[&str]) -> Mount {
        mount("format/mkdir/overlay", Path::new("overlay"), options)
    }

    #[test]
    fn an_overlay_names_images_by_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "b", "c"].map(|name| dir.path().join(name));
        for lower in ["lowerdir={{ mount 1 }}:{{ mount 2 }}:{{ mount 3 }}", "lowerdir={{ overlay 1 3 }}"] {
            let mut mounts = images(dir.path());
            mounts.push(overlay(&["workdir={{ mount 0 }}/w", "upperdir={{ mount 0 }}/u", lower]));
            let root = assemble(&mounts).unwrap();
            assert_eq!(root.layers, files, "{lower}");
            let directories = UpperDirectories { files: "u".to_owned(), work: "w".to_owned() };
            assert_eq!(root.writable, Some(Writable::Image(dir.path().join("upper"), directories)));
            mounts.pop();
            mounts.push(overlay(&[lower]));
            assert_eq!(assemble(&mounts).unwrap().writable, None);
        }
        let single = &images(dir.path())[1..2];
        assert!(is_image(&single[0]));
        assert_eq!(assemble(single).unwrap().layers, [dir.path().join("c")]);
    }

    #[test]
    fn what_a_vm_cannot_mount_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (work, lower) = ("workdir={{ mount 0 }}/w", "lowerdir={{ mount 1 }}");
        for (options, said) in [
            (&[][..], "mount 4 (format/mkdir/overlay): has no lowerdir"),
            (&["lowerdir={{ mount 4 }}"], "names mount 4, of 4"),
            (&["lowerdir={{ mount 0 }}"], "mount 0 (ext4): must be erofs or squashfs"),
            (&["lowerdir=/etc"], "can't read \"/etc\""),
            (&["lowerdir={{ overlay 0 99999999 }}"], "can't read"),
            (&["upperdir={{ mount 0 }}/u", lower], "has no workdir"),
            (&["upperdir=/host/fs", work, lower], "have the snapshotter make an ext4 image"),
            (&["upperdir={{ mount 0 }}/../u", work, lower], "can't write to"),
            (&["upperdir={{ mount 0 }}/u/v", work, lower], "can't write to"),
            (&["upperdir={{ mount 2 }}/u", work, lower], "different mounts"),
            (&["upperdir={{ mount 2 }}/u", "workdir={{ mount 2 }}/w", lower], "mount 2 (erofs): must be ext4"),
        ] {
            let mut mounts = images(dir.path());
            mounts.push(overlay(options));
            let error = assemble(&mounts).unwrap_err().to_string();
            assert!(error.contains(said), "{options:?}: {error}");
        }
        let mut mounts = images(dir.path());
        let error = assemble(&mounts).unwrap_err().to_string();
        assert!(error.ends_with("mount 3 (squashfs): only an overlay can put images together"), "{error}");
        std::fs::remove_file(dir.path().join("upper")).unwrap();
        mounts.push(overlay(&["upperdir={{ mount 0 }}/u", work, lower]));
        let error = assemble(&mounts).unwrap_err().to_string();
        assert!(error.contains("mount 0 (ext4)") && error.ends_with("upper is no file"), "{error}");
    }
}
