//! `/init` of the guest.

fn main() -> std::process::ExitCode {
    match supermachine_agent::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let mut cause = std::error::Error::source(&error);
            eprint!("agent: {error}");
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            std::process::ExitCode::FAILURE
        }
    }
}
