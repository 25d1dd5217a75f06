use super::*;
use crate::key::tests::facts;

fn written(guest_page: u64) -> Written {
    // Of a larger machine than that of the manifest.
    Written::check(vec![Run { guest_page, pages: 1 }], 16 << 30).unwrap()
}

fn manifest() -> Manifest {
    let extents =
        vec![Extent { guest_page: 1, file_page: 0, pages: 2 }, Extent { guest_page: 300, file_page: 2, pages: 1 }];
    Manifest {
        subject: Subject::warm(facts(), vec![Digest([8; 32]), Digest([9; 32])], Digest([10; 32])),
        over: Some(Digest([7; 32])),
        state: Part { bytes: 700, digest: Digest([5; 32]) },
        memory: Part { bytes: 3 * 4096, digest: Digest([6; 32]) },
        extents: Extents::check(extents, 256 << 20, 3 * 4096).unwrap(),
        written: written(2),
        written_later: written(300),
        upper: Some(Upper { disk_bytes: 1 << 30, part: Part { bytes: 5000, digest: Digest([11; 32]) } }),
    }
}

/// The bytes of [`manifest`], and its key. If these change, bakes of earlier builds no longer decode, or decode to something
/// else: raise [`FORMAT_VERSION`] in the same change, and replace both. Never change one without the other. A test that
/// fails leaves the new bytes in the directory for temporary files.
const GOLDEN: (u32, &[u8], &str) =
    (4, include_bytes!("golden-4"), "d6dd3b157a952d0565f24c3425787d881bf37cb5a66457ad1c3a6d07a284d3b6");

#[test]
fn tripwire_the_bytes_of_a_manifest_change_only_with_the_format_version() {
    let (bytes, key) = (manifest().encode().unwrap(), manifest().subject.key().to_string());
    if bytes != GOLDEN.1 {
        std::fs::write(std::env::temp_dir().join("golden"), &bytes).unwrap();
    }
    assert_eq!((FORMAT_VERSION, bytes.as_slice(), key.as_str()), GOLDEN, "see the comment at GOLDEN");
    assert_eq!(Manifest::decode(GOLDEN.1).unwrap(), manifest());
}

#[test]
fn a_manifest_reads_back() {
    let bytes = manifest().encode().unwrap();
    assert_eq!(
        &bytes[..16],
        [b"SMBAKE\0\0".as_slice(), &4u32.to_le_bytes(), &((bytes.len() - 48) as u32).to_le_bytes()].concat()
    );
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = manifest().encode().unwrap();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << bit;
            assert!(Manifest::decode(&flipped).is_err(), "byte {index}, bit {bit}");
        }
    }
}

#[test]
fn every_truncation_and_any_addition_is_noticed() {
    let bytes = manifest().encode().unwrap();
    for length in 0..bytes.len() {
        assert!(Manifest::decode(&bytes[..length]).is_err(), "{length}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(Manifest::decode(&longer), Err(ManifestError::Length { .. })));
}

/// A manifest whose digest is right, around any body.
fn seal(version: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), &version.to_le_bytes(), &(body.len() as u32).to_le_bytes(), body].concat();
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(&digest.0);
    bytes
}

#[test]
fn faults_behind_a_right_digest_are_told_apart() {
    let bytes = manifest().encode().unwrap();
    let body = &bytes[16..bytes.len() - 32];
    assert!(matches!(Manifest::decode(&seal(1, body)), Err(ManifestError::Version { found: 1 })));
    assert!(matches!(Manifest::decode(&seal(4, &body[..40])), Err(ManifestError::Body(_))));
    let stray = [body, &[0, 0]].concat();
    assert!(matches!(Manifest::decode(&seal(4, &stray)), Err(ManifestError::Trailing { bytes: 2 })));
    let mut foreign = manifest();
    foreign.memory.bytes += 4096;
    assert!(matches!(Manifest::decode(&foreign.encode().unwrap()), Err(ManifestError::Extents(_))));
    for (written, written_later) in [(written(1 << 20), written(1)), (written(1), written(1 << 20))] {
        let outside = Manifest { written, written_later, ..manifest() };
        assert!(matches!(Manifest::decode(&outside.encode().unwrap()), Err(ManifestError::Written(_))));
    }
    let alone = Manifest { over: None, ..manifest() };
    assert!(matches!(Manifest::decode(&alone.encode().unwrap()), Err(ManifestError::Over { level: Level::Warm })));
    let base = Manifest { subject: Subject::base(facts()), ..manifest() };
    assert!(matches!(Manifest::decode(&base.encode().unwrap()), Err(ManifestError::Over { level: Level::Base })));
    let disk = |upper| Manifest::decode(&Manifest { upper, ..manifest() }.encode().unwrap());
    let odd = manifest().upper.map(|upper| Upper { disk_bytes: 4095, ..upper });
    for upper in [None, odd] {
        assert!(matches!(disk(upper), Err(ManifestError::Disk { level: Level::Warm })));
    }
    assert!(matches!(Manifest::decode(b"#!/bin/sh\nexit 0\n"), Err(ManifestError::NotAManifest)));
    let mut flipped = bytes;
    flipped[20] ^= 1;
    assert!(matches!(Manifest::decode(&flipped), Err(ManifestError::Digest)));
}

proptest::proptest! {
    #[test]
    fn any_body_behind_a_right_digest_passes_or_fails_without_a_panic(body: Vec<u8>) {
        let _outcome = Manifest::decode(&seal(FORMAT_VERSION, &body)).is_ok();
    }
}
