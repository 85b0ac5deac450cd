//! The courier's protocol from the agent's side: a peer that says anything at all.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use gix_hash::ObjectId;
use trimtab::courier::protocol::{MAX_PIECE, Reply, Request};
use trimtab::courier::{Client, Delivery, Part};
use trimtab::wire::{self, ObjectKind, ObjectSource as _};
use trimtab_model::outbound::Signed;

/// What the courier answers to a question that the first byte chooses. The same bytes are read as frames by themselves, too.
pub fn client(bytes: &[u8]) {
    let Some((which, answer)) = bytes.split_first() else { return };
    frames(answer);
    let folder = tempfile::tempdir().expect("because the temporary folder can be written");
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("because nobody else has this name");
    std::thread::scope(|scope| {
        let client = Client::connect(&socket, Duration::from_secs(20)).expect("because it listens");
        let (mut stream, _) = listener.accept().expect("because somebody has connected");
        // Beside the asking: nobody waits for the other.
        scope.spawn(move || {
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        ask(client, *which);
    });
}

fn ask(mut client: Client, which: u8) {
    let ids: Vec<ObjectId> = (1..=4u8).map(|byte| ObjectId::from_bytes_or_panic(&[byte; 20])).collect();
    let limit = 1000;
    match which % 6 {
        0 => hold(&client.poll_beside("refs/trimtab/production", Some("refs/trimtab/production.alive"))),
        1 => hold(&client.advance(&ids[0], Some(&ids[1]))),
        2 => {
            let part = Part::Content { size: 7 };
            let said = client.fetch("https://example.org/x", part, 0);
            hold(&said);
            assert!(said.is_err() || said.is_ok_and(|(piece, _)| piece.len() <= MAX_PIECE));
        }
        3 => {
            let report = Signed { report: b"{}".to_vec(), signature: "untrusted comment: x\n".to_owned() };
            let said = client.deliver("hook", &[report]);
            hold(&said);
            if let Ok(Delivery::Refused { message, .. }) = said {
                told(&message);
            }
        }
        4 => {
            let said = client.some(ObjectKind::Blob, &ids, limit);
            hold(&said);
            if let Ok(objects) = said {
                assert!((1..=ids.len()).contains(&objects.len()));
                assert!(objects.iter().all(|object| object.len() as u64 <= limit));
            }
        }
        // As often as it takes: an answer to each question, or an error.
        _ => {
            let all = client.objects(ObjectKind::Tree, &ids, limit);
            hold(&all);
            assert!(all.is_err() || all.is_ok_and(|all| all.len() == ids.len()));
        }
    }
}

/// What is told to a person of what went wrong.
fn hold<T, E: std::error::Error + 'static>(said: &Result<T, E>) {
    let mut next = said.as_ref().err().map(|error| error as &dyn std::error::Error);
    while let Some(error) = next {
        told(&error.to_string());
        next = error.source();
    }
}

fn told(message: &str) {
    assert!(message.len() < 10_000 && !message.chars().any(char::is_control), "a message that is not one short line");
}

/// What a frame says is written as it was read, and no more than was asked for is taken.
fn frames(bytes: &[u8]) {
    const LIMIT: u64 = 4096;
    if let Ok((reply, body)) = wire::receive::<Reply>(&mut &*bytes, "peer", LIMIT) {
        assert!(body.len() as u64 <= LIMIT);
        let mut again = Vec::new();
        wire::send(&mut again, "peer", &reply, &body).expect("because a Vec takes everything");
        assert_eq!(wire::receive::<Reply>(&mut again.as_slice(), "peer", LIMIT).ok(), Some((reply, body)));
    }
    if let Ok((request, body)) = wire::receive::<Request>(&mut &*bytes, "peer", LIMIT) {
        let mut again = Vec::new();
        wire::send(&mut again, "peer", &request, &body).expect("because a Vec takes everything");
        assert_eq!(wire::receive::<Request>(&mut again.as_slice(), "peer", LIMIT).ok(), Some((request, body)));
    }
}
