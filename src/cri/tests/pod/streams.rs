//! Exec, attach and port-forward through the streaming back end, without its protocols.

use std::time::Duration;

use proto::cri as api;
use stream::{AttachParams, Backend, ExecParams, Size, Streams, Wants};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use crate::bed::{Bed, Life, container, create, pod, run, start};

/// The client's ends.
struct Client {
    stdin: DuplexStream,
    stdout: DuplexStream,
    stderr: DuplexStream,
    resize: mpsc::Sender<Size>,
}

fn streams(tty: bool) -> (Client, Streams) {
    let pair = || tokio::io::duplex(1 << 16);
    let ((a, b), (c, d), (e, f)) = (pair(), pair(), pair());
    let (sender, resize) = mpsc::channel(8);
    let client = Client {
        stdin: a,
        stdout: c,
        stderr: e,
        resize: sender,
    };
    let stderr: Option<stream::Writer> = if tty { None } else { Some(Box::pin(f)) };
    (
        client,
        Streams {
            stdin: Some(Box::pin(b)),
            stdout: Some(Box::pin(d)),
            stderr,
            resize,
        },
    )
}

fn ready(bed: &Bed, life: &Life, script: &str, change: impl FnOnce(&mut api::ContainerConfig)) -> (String, String) {
    life.pull(bed);
    let pod = run(life, pod(bed, "streams"));
    let mut config = container(bed, "c", script);
    change(&mut config);
    let id = create(life, &pod, config).unwrap();
    start(life, &id).unwrap();
    (pod, id)
}

fn exec(id: &str, script: &str, tty: bool) -> ExecParams {
    let cmd = vec!["/bin/sh".into(), "-c".into(), script.into()];
    ExecParams {
        container_id: id.into(),
        cmd,
        tty,
        wants: Wants {
            stdin: true,
            stdout: true,
            stderr: !tty,
        },
    }
}

#[test]
fn exec_carries_every_byte_both_ways() {
    let bed = Bed::new();
    let life = bed.start();
    let (pod, id) = ready(&bed, &life, "exec sleep 1000", |_| {});
    let backend = life.streaming();
    let (mut client, ours) = streams(false);
    let (code, out, err) = life.run(async {
        let run = backend.exec(exec(&id, "cat; echo done >&2; exit 5", false), ours);
        let feed = async {
            let block = vec![b'x'; 100_000];
            for _ in 0..50 {
                client.stdin.write_all(&block).await.unwrap();
            }
            client.stdin.shutdown().await.unwrap();
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let read = async {
            let both = tokio::join!(client.stdout.read_to_end(&mut out), client.stderr.read_to_end(&mut err));
            both.0.and(both.1).unwrap();
        };
        let (code, (), ()) = tokio::join!(run, feed, read);
        (code.unwrap(), out, err)
    });
    assert_eq!((code, out.len(), err), (5, 5_000_000, b"done\n".to_vec()));
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_terminal_has_its_size_and_one_output() {
    let bed = Bed::new();
    let life = bed.start();
    let (pod, id) = ready(&bed, &life, "exec sleep 1000", |_| {});
    let backend = life.streaming();
    let (mut client, ours) = streams(true);
    let (code, out) = life.run(async {
        client.resize.send(Size { width: 123, height: 45 }).await.unwrap();
        let run = backend.exec(
            exec(&id, "stty size; echo to-err >&2; echo $TERM; read x; echo got $x", true),
            ours,
        );
        let mut out = Vec::new();
        let talk = async {
            client.stdin.write_all(b"word\n").await.unwrap();
            client.stdout.read_to_end(&mut out).await.unwrap();
        };
        let (code, ()) = tokio::join!(run, talk);
        (code.unwrap(), String::from_utf8(out).unwrap())
    });
    assert_eq!(code, 0);
    for line in ["45 123\r\n", "to-err\r\n", "xterm\r\n", "got word\r\n"] {
        assert!(out.contains(line), "{line:?} is not in {out:?}");
    }
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_client_that_leaves_takes_its_process_along() {
    let bed = Bed::new();
    let life = bed.start();
    let (pod, id) = ready(&bed, &life, "exec sleep 1000", |_| {});
    let backend = life.streaming();
    let (client, ours) = streams(false);
    life.run(async {
        let session = backend.exec(exec(&id, "exec sleep 777", false), ours);
        assert!(tokio::time::timeout(Duration::from_millis(500), session).await.is_err());
    });
    drop(client);
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while life
        .exec(&id, "for p in /proc/[0-9]*; do cat $p/cmdline; done; true")
        .stdout
        .windows(3)
        .any(|w| w == b"777")
    {
        assert!(std::time::Instant::now() < until, "the process is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn attach_talks_to_the_container_itself() {
    let bed = Bed::new();
    let life = bed.start();
    let (pod, id) = ready(
        &bed,
        &life,
        "while read x; do echo said $x; done; echo end >&2; exit 4",
        |c| {
            c.stdin = true;
            c.stdin_once = true;
        },
    );
    let backend = life.streaming();
    let (mut client, ours) = streams(false);
    let params = AttachParams {
        container_id: id.clone(),
        tty: false,
        wants: Wants {
            stdin: true,
            stdout: true,
            stderr: true,
        },
    };
    let (out, err) = life.run(async {
        let session = backend.attach(params, ours);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let talk = async {
            client.stdin.write_all(b"one\ntwo\n").await.unwrap();
            client.stdin.shutdown().await.unwrap();
            let both = tokio::join!(client.stdout.read_to_end(&mut out), client.stderr.read_to_end(&mut err));
            both.0.and(both.1).unwrap();
        };
        let (ended, ()) = tokio::join!(session, talk);
        ended.unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    });
    assert_eq!((out.as_str(), err.as_str()), ("said one\nsaid two\n", "end\n"));
    assert_eq!(life.wait_exit(&id).exit_code, 4);
    let log = std::fs::read_to_string(bed.path("logs/streams/c.log")).unwrap();
    assert!(
        log.contains("stdout F said two\n") && log.contains("stderr F end\n"),
        "{log}"
    );
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_port_is_the_pods_own() {
    use std::io::{Read, Write};
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "port"));
    // A server inside the pod's network namespace, and none outside on that port.
    let netns = life.netns(&pod);
    let (sender, receiver) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let file = std::fs::File::open(netns).unwrap();
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), None).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        sender.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        socket.read_to_end(&mut asked).unwrap();
        // The client closed its side; the answer still arrives.
        socket.write_all(&asked).unwrap();
    });
    let port = receiver.recv().unwrap();
    let backend = life.streaming();
    let (mut client, ours) = tokio::io::duplex(4096);
    let answer = life.run(async {
        let (reader, writer) = tokio::io::split(ours);
        let session = backend.port_forward(&pod, port, Box::pin(reader), Box::pin(writer));
        let mut answer = Vec::new();
        let talk = async {
            client.write_all(b"half-closed").await.unwrap();
            client.shutdown().await.unwrap();
            client.read_to_end(&mut answer).await.unwrap();
        };
        let (ended, ()) = tokio::join!(session, talk);
        ended.unwrap();
        answer
    });
    assert_eq!(answer, b"half-closed");
    server.join().unwrap();
    let refused = life.run(async {
        let (_client, ours) = tokio::io::duplex(16);
        let (reader, writer) = tokio::io::split(ours);
        backend
            .port_forward(&pod, port, Box::pin(reader), Box::pin(writer))
            .await
    });
    assert!(refused.unwrap_err().message.contains(&format!("port {port}")));
    life.remove_pod(&pod);
    bed.assert_clean();
}
