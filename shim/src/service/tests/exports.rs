//! What a container has written, asked for beside the Task service.

use supermachine::shim::{ExportUpperRequest, ExportUpperResponse};

use super::*;

async fn export(bench: &Bench, known: &str) -> ttrpc::Result<ExportUpperResponse> {
    let request = ExportUpperRequest {
        container_id: "c1".into(),
        directory: bench.dir.path().join(format!("after {known}")).display().to_string(),
        known: known.into(),
        ..Default::default()
    };
    bench.shim.export_upper(within(), &request).await
}

#[tokio::test]
async fn a_container_s_files_are_given_out_while_its_vm_runs() {
    let bench = Bench::new().await;
    assert_eq!(code(export(&bench, "").await), Code::NOT_FOUND, "there is no container yet");
    bench.create(&["sleep"], "", "").await.unwrap();
    let answer = export(&bench, "").await.unwrap();
    assert!(!answer.as_known && bench.dir.path().join("after ").is_dir());
    let again = export(&bench, &answer.generation).await.unwrap();
    assert!(again.as_known && !bench.dir.path().join("after first").exists());
    assert_eq!(again.generation, answer.generation);
    bench.sandbox().crash("for a test").await;
    assert_eq!(code(export(&bench, "").await), Code::UNAVAILABLE);
}
