//! What containers must do.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use agent_proto::{ContainerRequest, File, ResizeTerminalRequest, Stdio};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ttrpc::Code;

use crate::trial::{Trial, context, process, shell, spec, status};

cases! {
    async fn nothing_happens_before_the_gate_opens(trial) {
        trial.prepare_capture().await?;
        trial.prepare_capture().await?;
        expect(trial.create("a", &spec(&["true"]), Stdio::new(), vec![]).await, Code::FAILED_PRECONDITION, "Resume")?;
        expect(trial.wait("a", "").await, Code::FAILED_PRECONDITION, "Resume")?;
        trial.resume().await?;
        let again = trial.resume().await.err().context("resumed twice")?;
        ensure!(again.to_string().contains("was resumed"), "{again}");
        expect(trial.prepare_capture().await, Code::FAILED_PRECONDITION, "PrepareCapture")
    }

    async fn output_and_exit_code_come_through(trial) {
        trial.resume().await?;
        for code in [0, 1, 42, 127, 255] {
            let command = format!("echo out; echo err >&2; exit {code}");
            let outcome = trial.run("a", &spec(&shell(&command))).await?;
            ensure!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()) == (code, "out\n", "err\n"), "{outcome:?}");
        }
        let outcome = trial.run("a", &spec(&shell("sh -c 'kill -9 $$'; echo $?; kill -TERM $$; trap - TERM"))).await?;
        ensure!(outcome.stdout == "137\n", "{outcome:?}");
        expect(trial.delete("a", "").await, Code::NOT_FOUND, "container \"a\"")
    }

    async fn a_signal_ends_a_process(trial) {
        trial.resume().await?;
        trial.create("a", &spec(&["sleep", "1000"]), Stdio::new(), vec![]).await?;
        expect(trial.create("a", &spec(&["true"]), Stdio::new(), vec![]).await, Code::ALREADY_EXISTS, "exists")?;
        trial.start_process("a", "").await?;
        expect(trial.start_process("a", "").await, Code::FAILED_PRECONDITION, "already")?;
        expect(trial.delete("a", "").await, Code::FAILED_PRECONDITION, "running")?;
        expect(trial.kill("a", "", 999, false).await, Code::INVALID_ARGUMENT, "999")?;
        trial.kill("a", "", libc::SIGKILL, false).await?;
        let (one, other) = tokio::join!(trial.wait("a", ""), trial.wait("a", ""));
        ensure!((one?, other?) == (137, 137));
        expect(trial.kill("a", "", libc::SIGKILL, false).await, Code::NOT_FOUND, "exited")?;
        ensure!(trial.delete("a", "").await?.code == 137);
        Ok(())
    }

    async fn a_created_container_can_be_deleted(trial) {
        trial.resume().await?;
        trial.create("a", &spec(&["sleep", "1000"]), Stdio::new(), vec![]).await?;
        ensure!(trial.delete("a", "").await?.code == 137);
        trial.create("a", &spec(&["sleep", "1000"]), Stdio::new(), vec![]).await?;
        trial.kill("a", "", libc::SIGKILL, true).await?;
        ensure!(trial.wait("a", "").await? == 137);
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn input_reaches_its_end(trial) {
        trial.resume().await?;
        let (stdin, input) = trial.stream().await?;
        let (stdout, mut output) = trial.stream().await?;
        trial.create("a", &spec(&["cat"]), Stdio { stdin, stdout, ..Default::default() }, vec![]).await?;
        trial.start_process("a", "").await?;
        let sent: Vec<u8> = (0..8u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (mut rest, mut input) = input.into_split();
        let write = async {
            input.write_all(&sent).await?;
            input.shutdown().await
        };
        let mut received = Vec::new();
        tokio::try_join!(write, output.read_to_end(&mut received))?;
        ensure!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
        ensure!(trial.wait("a", "").await? == 0);
        ensure!(rest.read(&mut [0]).await? == 0, "the input stream stays open");
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn who_holds_the_output_open_delays_nobody(trial) {
        trial.resume().await?;
        let (stdout, mut output) = trial.stream().await?;
        trial.create("a", &spec(&["sleep", "1000"]), Stdio::new(), vec![]).await?;
        trial.start_process("a", "").await?;
        let command = process(&shell("sleep 1 && echo late & echo early"));
        trial.create_further("a", "b", &command, Stdio { stdout, ..Default::default() }).await?;
        let begin = Instant::now();
        trial.start_process("a", "b").await?;
        ensure!(trial.wait("a", "b").await? == 0);
        ensure!(begin.elapsed() < Duration::from_millis(900), "waited {:?}", begin.elapsed());
        let mut text = String::new();
        output.read_to_string(&mut text).await?;
        ensure!(text == "early\nlate\n", "{text:?}");
        trial.kill("a", "", libc::SIGKILL, false).await?;
        trial.wait("a", "").await?;
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn what_cannot_run_says_why(trial) {
        trial.resume().await?;
        for (args, message) in [
            (vec!["foo"], "exec: \"foo\": executable file not found in $PATH"),
            (vec!["/bin/foo"], "exec: \"/bin/foo\": stat /bin/foo: no such file or directory"),
        ] {
            expect(trial.create("a", &spec(&args), Stdio::new(), vec![]).await, Code::NOT_FOUND, message)?;
        }
        for (args, code, message) in [
            (vec!["./foo"], Code::NOT_FOUND, "exec: \"./foo\": stat ./foo: no such file or directory"),
            (vec!["/etc/passwd"], Code::PERMISSION_DENIED, "exec: \"/etc/passwd\": permission denied"),
            (vec!["/etc"], Code::PERMISSION_DENIED, "exec: \"/etc\": is a directory"),
            (vec!["data"], Code::INVALID_ARGUMENT, "exec /bin/data: exec format error"),
        ] {
            trial.create("a", &spec(&args), Stdio::new(), vec![]).await?;
            expect(trial.start_process("a", "").await, code, message)?;
            trial.delete("a", "").await?;
        }
        Ok(())
    }

    async fn a_spec_that_cannot_be_met_leaves_nothing(trial) {
        trial.resume().await?;
        let refused: [(&str, Value, &str); 7] = [
            ("/process/args", json!([]), "process.args"),
            ("/process/cwd", json!("relative"), "process.cwd"),
            ("/linux/namespaces", json!([{"type": "pid"}]), "mount namespace"),
            ("/linux/namespaces/0", json!({"type": "network", "path": "/no/such"}), "/no/such"),
            ("/mounts/0/options", json!(["idmap"]), "mounts[0].options"),
            ("/linux/maskedPaths", json!("x"), "linux.maskedPaths"),
            ("/mounts/7", json!({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}), "mounts[7].source"),
        ];
        for (pointer, value, message) in refused {
            let mut spec = spec(&["true"]);
            *spec.pointer_mut(pointer).context("no such field")? = value;
            expect(trial.create("a", &spec, Stdio::new(), vec![]).await, Code::INVALID_ARGUMENT, message)?;
        }
        expect(trial.create("../a", &spec(&["true"]), Stdio::new(), vec![]).await, Code::INVALID_ARGUMENT, "id")?;
        ensure!(trial.run("a", &spec(&["true"])).await?.code == 0);
        Ok(())
    }

    async fn the_process_is_what_its_spec_says(trial) {
        trial.resume().await?;
        let command = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/self/status; umask; pwd; hostname; echo $HOME $MARK; ulimit -n";
        let mut spec = spec(&shell(command));
        spec["process"]["cwd"] = json!("/srv/made/for/it");
        spec["process"]["user"] = json!({"uid": 33, "gid": 34, "umask": 0o027, "additionalGids": [7, 9]});
        spec["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
        spec["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL", "CAP_CHOWN"]);
        spec["linux"]["seccomp"] = profile();
        let outcome = trial.run("a", &spec).await?;
        let text = outcome.stdout.replace('\t', " ");
        for line in [
            "Uid: 33 33 33 33", "Gid: 34 34 34 34", "Groups: 7 9",
            "CapInh: 0000000000000021", "CapPrm: 0000000000000020", "CapEff: 0000000000000020", "CapBnd: 00000000000004e3", "CapAmb: 0000000000000020",
            "NoNewPrivs: 1", "Seccomp: 2", "0027", "/srv/made/for/it", "trial", "/var/web here", "777",
        ] {
            ensure!(text.lines().any(|found| found.trim_end() == line), "no {line:?} in {outcome:?}");
        }
        Ok(())
    }

    async fn filters_hold_with_and_without_new_privileges(trial) {
        trial.resume().await?;
        for no_new_privileges in [true, false] {
            let mut spec = spec(&shell("mkdir /tmp/x 2>&1; grep -E '^(Seccomp|NoNewPrivs)' /proc/self/status"));
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            spec["linux"]["seccomp"] = profile();
            std::os::unix::fs::symlink("busybox", trial.folder.path().join("rootfs/bin/mkdir")).ok();
            let outcome = trial.run("a", &spec).await?;
            ensure!(outcome.stdout.contains("Too many levels of symbolic links"), "{outcome:?}");
            let expected = format!("NoNewPrivs:\t{}\n", i32::from(no_new_privileges));
            ensure!(outcome.stdout.contains(&expected) && outcome.stdout.contains("Seccomp:\t2\n"), "{outcome:?}");
        }
        Ok(())
    }

    async fn mounts_and_devices_are_there(trial) {
        trial.resume().await?;
        let script = "
            cat /proc/keys | wc -c; echo 1 2>/dev/null >/proc/sys/kernel/domainname || echo proc-ro
            touch /sys/x 2>/dev/null || echo sys-ro
            for f in null zero full random urandom tty; do test -c /dev/$f || echo no $f; done
            for f in fd stdin ptmx; do readlink /dev/$f; done; echo x >/dev/null && echo null-ok
            stat -c %a /dev/shm /dev; ls /proc | grep -c '^[0-9]'; cat /sys/fs/cgroup/cgroup.procs | head -1; cat /proc/self/cgroup | grep '^0:'";
        let outcome = trial.run("a", &spec(&shell(script))).await?;
        let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
        let (head, tail) = lines.split_at(lines.len().min(9));
        ensure!(head == ["0", "proc-ro", "sys-ro", "/proc/self/fd", "/proc/self/fd/0", "pts/ptmx", "null-ok", "1777", "755"], "{outcome:?}");
        ensure!(tail.first().is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count < 6)), "{outcome:?}");
        ensure!(tail.get(1..) == Some(&["1", "0::/"]), "{outcome:?}");
        Ok(())
    }

    async fn the_root_can_be_read_only(trial) {
        trial.resume().await?;
        let mut spec = spec(&shell("touch /x 2>&1; touch /dev/x && touch /run/x && echo rest-ok"));
        spec["root"]["readonly"] = json!(true);
        let outcome = trial.run("a", &spec).await?;
        ensure!(outcome.stdout.contains("Read-only file system") && outcome.stdout.ends_with("rest-ok\n"), "{outcome:?}");
        spec["process"]["args"] = json!(shell("touch /dev/x 2>&1"));
        spec["mounts"][1]["options"] = json!(["ro", "mode=755"]);
        let outcome = trial.run("a", &spec).await?;
        ensure!(outcome.stdout.contains("Read-only file system"), "{outcome:?}");
        Ok(())
    }

    async fn binds_cannot_leave_the_root(trial) {
        trial.resume().await?;
        let outside = tempfile::tempdir()?;
        let source = tempfile::NamedTempFile::new()?;
        std::fs::write(source.path(), "bound")?;
        let root = trial.folder.path().join("rootfs");
        symlink(outside.path(), root.join("escape"))?;
        symlink("../../../../../../../..", root.join("up"))?;
        std::fs::create_dir_all(root.join(outside.path().strip_prefix("/")?))?;
        let mut spec = spec(&shell("cat /escape/file /up/deep/file; echo more >>/up/deep/file"));
        let bind = |target: &str, ro: &str| json!({"destination": target, "type": "bind", "source": source.path(), "options": ["rbind", ro]});
        let mounts = spec["mounts"].as_array_mut().context("mounts")?;
        mounts.extend([bind("/escape/file", "ro"), bind("/up/deep/file", "ro")]);
        let outcome = trial.run("a", &spec).await?;
        ensure!(outcome.stdout == "boundbound" && outcome.stderr.contains("Read-only"), "{outcome:?}");
        ensure!(std::fs::read_dir(outside.path())?.next().is_none(), "something was made outside");
        Ok(())
    }

    async fn files_are_carried_in(trial) {
        trial.resume().await?;
        let file = |path: &str, content: &str, read_only| File {
            path: path.to_owned(), mode: 0o640, content: content.as_bytes().to_vec(), read_only, ..Default::default()
        };
        let files = vec![file("/etc/hosts", "one\n", false), file("/new/dir/file", "two\n", true)];
        let script = "cat /etc/hosts /new/dir/file; stat -c %a /etc/hosts; echo more >>/etc/hosts && cat /etc/hosts; echo x >>/new/dir/file";
        let outcome = trial.run_with("a", &spec(&shell(script)), files.clone()).await?;
        ensure!(outcome.stdout == "one\ntwo\n640\none\nmore\n" && outcome.stderr.contains("Read-only"), "{outcome:?}");
        let again = trial.run_with("a", &spec(&["cat", "/etc/hosts"]), files).await?;
        ensure!(again.stdout == "one\n", "{again:?}");
        expect(trial.create("a", &spec(&["true"]), Stdio::new(), vec![file("x", "", false)]).await, Code::INVALID_ARGUMENT, "files[0].path")
    }

    async fn further_processes_live_in_the_container(trial) {
        trial.resume().await?;
        let mut first = spec(&["sleep", "1000"]);
        first["linux"]["seccomp"] = profile();
        let pid = trial.create("a", &first, Stdio::new(), vec![]).await?;
        expect(trial.create_further("a", "b", &process(&["true"]), Stdio::new()).await, Code::FAILED_PRECONDITION, "running")?;
        trial.start_process("a", "").await?;
        let command = "hostname; cat /proc/1/comm; readlink /proc/1/root; grep Seccomp: /proc/self/status; cat /proc/self/cgroup; exit 9";
        let outcome = trial.run_further("a", "b", &process(&shell(command))).await?;
        ensure!(outcome.code == 9 && outcome.stdout.starts_with("trial\nsleep\n"), "{outcome:?}");
        ensure!(outcome.stdout.contains("Seccomp:\t2\n") && outcome.stdout.contains("0::/\n"), "{outcome:?}");
        expect(trial.delete("a", "b").await, Code::NOT_FOUND, "process \"b\"")?;
        expect(trial.run_further("a", "c", &process(&["nope"])).await.map_err(|error| error.downcast().unwrap_or(ttrpc::Error::Eof)), Code::NOT_FOUND, "$PATH")?;
        expect(trial.delete("a", "c").await, Code::NOT_FOUND, "process \"c\"")?;

        let further = trial.create_further("a", "d", &process(&["sleep", "1000"]), Stdio::new()).await?;
        trial.start_process("a", "d").await?;
        let request = ContainerRequest { container_id: "a".to_owned(), ..Default::default() };
        let list = trial.agent.list_processes(context(), &request).await?;
        let mut found: Vec<_> = list.processes.iter().map(|entry| (entry.pid, entry.exec_id.as_str())).collect();
        found.sort_unstable();
        let mut expected = vec![(pid, ""), (further, "d")];
        expected.sort_unstable();
        ensure!(found == expected, "{found:?}, not {expected:?}");
        trial.kill("a", "d", libc::SIGTERM, false).await?;
        ensure!(trial.wait("a", "d").await? == 143);

        trial.create_further("a", "e", &process(&["sleep", "1000"]), Stdio::new()).await?;
        trial.start_process("a", "e").await?;
        trial.kill("a", "", libc::SIGKILL, true).await?;
        ensure!((trial.wait("a", "").await?, trial.wait("a", "e").await?) == (137, 137));
        expect(trial.create_further("a", "f", &process(&["true"]), Stdio::new()).await, Code::FAILED_PRECONDITION, "running")?;
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn without_a_pid_namespace_the_rest_dies_with_the_first(trial) {
        trial.resume().await?;
        let mut spec = spec(&shell("sleep 1000 & sleep 1000 & exit 3"));
        let kept: Vec<Value> = ["ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
        spec["linux"]["namespaces"] = json!(kept);
        spec["mounts"][0] = json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]});
        spec["mounts"][5] = json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind"]});
        trial.create("a", &spec, Stdio::new(), vec![]).await?;
        trial.start_process("a", "").await?;
        ensure!(trial.wait("a", "").await? == 3);
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn a_terminal_is_one(trial) {
        trial.resume().await?;
        let (stdin, mut input) = trial.stream().await?;
        let (stdout, mut output) = trial.stream().await?;
        let script = "stty size; readlink /proc/self/fd/0; test -c /dev/console && echo console; read x; echo got $x; read y; stty size; exit 5";
        let mut spec = spec(&shell(script));
        spec["process"]["terminal"] = json!(true);
        let stdio = Stdio { stdin, stdout, terminal: true, columns: 100, rows: 30, ..Default::default() };
        trial.create("a", &spec, stdio, vec![]).await?;
        trial.start_process("a", "").await?;
        let mut text = read_until(&mut output, "console").await?;
        input.write_all(b"word\n").await?;
        text += &read_until(&mut output, "got word").await?;
        let resize = ResizeTerminalRequest { container_id: "a".to_owned(), columns: 50, rows: 20, ..Default::default() };
        trial.agent.resize_terminal(context(), &resize).await?;
        input.write_all(b"\n").await?;
        output.read_to_string(&mut text).await?;
        ensure!(trial.wait("a", "").await? == 5);
        trial.delete("a", "").await?;
        for part in ["30 100\r\n", "/dev/pts/0\r\n", "20 50\r\n"] {
            ensure!(text.contains(part), "no {part:?} in {text:?}");
        }
        Ok(())
    }

    async fn further_processes_have_terminals_too(trial) {
        trial.resume().await?;
        trial.create("a", &spec(&["sleep", "1000"]), Stdio::new(), vec![]).await?;
        trial.start_process("a", "").await?;
        let (stdout, mut output) = trial.stream().await?;
        let stdio = Stdio { stdout, terminal: true, columns: 80, rows: 25, ..Default::default() };
        trial.create_further("a", "b", &process(&shell("stty size; exit 4")), stdio).await?;
        trial.start_process("a", "b").await?;
        let mut text = String::new();
        output.read_to_string(&mut text).await?;
        ensure!(trial.wait("a", "b").await? == 4 && text == "25 80\r\n", "{text:?}");
        trial.kill("a", "", libc::SIGKILL, false).await?;
        trial.wait("a", "").await?;
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn user_namespaces_map_ids(trial) {
        trial.resume().await?;
        let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        // In a machine, whose network is the container's, there is no namespace for that.
        for network in [true, false] {
            let mut spec = spec(&shell(
                "id -u; cat /proc/self/uid_map; echo x >/dev/null && echo ok; hostname; ls /sys | grep kernel; mkdir /sys/x || echo ro",
            ));
            let namespaces = spec["linux"]["namespaces"].as_array_mut().context("namespaces")?;
            namespaces.retain(|namespace| network || namespace["type"] != "network");
            namespaces.push(json!({"type": "user"}));
            (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (map.clone(), map.clone());
            let outcome = trial.run("a", &spec).await?;
            ensure!(outcome.code == 0, "{outcome:?}");
            let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
            ensure!(words == ["0", "0", "0", "65536", "ok", "trial", "kernel", "ro"], "network {network}: {outcome:?}");
        }
        Ok(())
    }

    async fn a_missing_stream_is_told(trial) {
        trial.resume().await?;
        let begin = Instant::now();
        let stdio = Stdio { stdout: 0xdead, ..Default::default() };
        expect(trial.create("a", &spec(&["true"]), stdio, vec![]).await, Code::DEADLINE_EXCEEDED, "0xdead")?;
        ensure!(begin.elapsed() >= Duration::from_secs(10), "gave up after {:?}", begin.elapsed());
        Ok(())
    }
}

/// A profile that allows everything, but not to make directories.
fn profile() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ELOOP}],
    })
}

pub(crate) fn expect<T>(result: Result<T, ttrpc::Error>, code: Code, part: &str) -> Result<()> {
    let Err(error) = result else { bail!("succeeded, instead of failing with {part:?}") };
    let (found, message) = status(&error).with_context(|| format!("{error:?}"))?;
    ensure!(found == code && message.contains(part), "{found:?} {message:?}, not {code:?} {part:?}");
    Ok(())
}

pub(crate) async fn read_until(stream: &mut tokio::net::UnixStream, end: &str) -> Result<String> {
    let mut text = String::new();
    let mut buffer = [0; 256];
    while !text.contains(end) {
        let count = stream.read(&mut buffer).await?;
        ensure!(count > 0, "ended before {end:?}: {text:?}");
        text += &String::from_utf8_lossy(&buffer[..count]);
    }
    Ok(text)
}
