use std::time::Duration;

use super::*;
use crate::record::{Id, Moment, Record, Usage};

fn snapshot() -> Named {
    let moment = Moment(Duration::ZERO);
    let labels = [("containerd.io/snapshot.ref", "sha256:abc"), ("plain", "a,b"), ("dotted.name", "é\"q")];
    let record = Record {
        id: Id(1),
        kind: Kind::Committed,
        parent: None,
        created: moment,
        updated: moment,
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        usage: Usage::default(),
    };
    Named { name: "k8s.io/7/extract-12 sha256:abc".to_owned(), record }
}

fn matches(text: &str) -> bool {
    Filter::parse(text).unwrap().matches(&snapshot())
}

#[test]
fn selects_by_field() {
    for text in [
        "",
        "kind==committed",
        " kind == committed , parent==\"\"",
        "kind!=active",
        "name~=extract-[0-9]+",
        "name~=/^k8s\\.io\\/7/",
        "name~=|io/7|",
        "name==\"k8s.io/7/extract-12 sha256:abc\"",
        "labels.\"containerd.io/snapshot.ref\"==sha256:abc",
        "labels.dotted.name",
        "labels.dotted.name==\"\\u00e9\\\"q\"",
        "labels.dotted.name==\"\\xc3\\xa9\\\"q\"",
        "labels.plain==\"a,b\"",
        "labels.absent!=x",
        "unknown!=x",
    ] {
        // A regular expression's own backslashes are doubled, as in a Go string.
        let text = text.replace("\\.", "\\\\.");
        assert!(matches(&text), "{text}");
    }
    for text in
        ["kind==active", "kind==committed,parent==x", "labels.absent", "labels.absent==\"\"", "unknown", "name==k8s.io"]
    {
        assert!(!matches(text), "{text}");
    }
}

#[test]
fn refuses_what_is_no_filter() {
    for text in [
        ",",
        "kind==",
        "kind==active,",
        "==x",
        "kind=active",
        "name~=(",
        "name==\"x",
        "name==\"\\q\"",
        "name==/x/",
        "name==\"\\xff\"",
        "name==\"\\u12\"",
        "kind==active parent==x",
        "labels.",
        "\\",
    ] {
        assert!(Filter::parse(text).is_err(), "{text}");
    }
}
