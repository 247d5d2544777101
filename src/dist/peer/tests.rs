use super::*;
use crate::{
    dist::{Cookie, EpmdMode, NodeName, Options, Service},
    term::{self, Term},
};
use bytes::Bytes;
use eetf::{Atom, Pid, Reference};
use proptest::prelude::*;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tokio::io::{DuplexStream, ReadBuf, duplex};

/// A service with one process, `toy`, that does what the tests need.
#[derive(Default)]
struct Toy {
    casts: AtomicUsize,
    finished: Arc<AtomicUsize>,
}

impl Service for Toy {
    fn names(&self) -> Vec<String> {
        vec!["toy".into()]
    }

    fn call(&self, _: &str, request: &Raw) -> Answer {
        match request.view().as_atom() {
            Some("later") => Answer::Later(Box::pin(async {
                tokio::task::yield_now().await;
                Answer::Reply(call::atom("at_last"))
            })),
            Some("never") => Answer::Later(Box::pin(std::future::pending())),
            Some("panic_later") => Answer::Later(Box::pin(async { panic!("on purpose") })),
            Some("panic") => panic!("on purpose"),
            Some("large") => Answer::Reply(Raw::encode(&term::binary(vec![0; 1024 * 1024]))),
            _ => Answer::Reply(request.clone()),
        }
    }

    fn cast(&self, _: &str, _: &Raw) {
        self.casts.fetch_add(1, Ordering::Relaxed);
    }

    fn info(&self, _: &str, _: &Raw) -> Vec<(Raw, Body)> {
        panic!("on purpose")
    }

    fn apply(&self, _: &str, function: &str, _: &[Raw]) -> Answer {
        let finished = self.finished.clone();
        match function {
            "slow" => Answer::Later(Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                finished.fetch_add(1, Ordering::Relaxed);
                Answer::Reply(call::atom("ok"))
            })),
            _ => Answer::Undef,
        }
    }
}

/// A node that neither listens nor registers, and one connection of it.
struct Bench {
    toy: Arc<Toy>,
    handle: Handle,
    task: tokio::task::JoinHandle<DownReason>,
}

async fn bench<S>(stream: S, change: impl FnOnce(&mut Options)) -> Bench
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let toy = Arc::new(Toy::default());
    let mut options = Options::new("own@127.0.0.1".parse().unwrap(), Cookie::new("c").unwrap());
    options.listen = None;
    options.epmd_mode = EpmdMode::Unregistered;
    change(&mut options);
    let node = Node::start(options, toy.clone()).await.unwrap();
    let info = PeerInfo {
        name: "peer@h".parse::<NodeName>().unwrap(),
        creation: 9,
        hidden: false,
        connection: 1,
        since: std::time::SystemTime::now(),
    };
    let (handle, mut start) = Handle::new(info.clone(), Agreed::default());
    let task = tokio::spawn(async move { run(&node, &info, stream, &mut start).await });
    Bench { toy, handle, task }
}

async fn connected(change: impl FnOnce(&mut Options)) -> (Bench, DuplexStream) {
    let (ours, theirs) = duplex(256 * 1024);
    (bench(ours, change).await, theirs)
}

fn raw(term: impl Into<Term>) -> Raw {
    Raw::encode(&term.into())
}

fn alias(id: u32) -> Term {
    let reference = Reference {
        node: Atom::from("peer@h"),
        id: vec![id, 2, 3],
        creation: 9,
    };
    term::improper([term::atom("alias")], reference.into())
}

fn peer_pid() -> Term {
    Pid::new("peer@h", 1, 0, 9).into()
}

fn to_toy(message: Term) -> Message<Body> {
    Message::RegSend {
        from: raw(peer_pid()),
        to: call::atom("toy"),
        message: raw(message).into(),
    }
}

fn gen_call(id: u32, request: Term) -> Message<Body> {
    let from = term::tuple([peer_pid(), alias(id)]);
    to_toy(term::tuple([term::atom("$gen_call"), from, request]))
}

fn bytes_of(messages: &[Message<Body>]) -> Bytes {
    let mut out = Outbox::new(Agreed::default());
    for message in messages {
        out.push(message.clone()).unwrap();
    }
    let length = out.remaining();
    out.copy_to_bytes(length)
}

/// The next message that is no tick.
async fn receive<R: AsyncRead + Unpin>(stream: &mut R) -> Message<Raw> {
    loop {
        let length = stream.read_u32().await.unwrap() as usize;
        if length > 0 {
            let mut frame = vec![0; length];
            stream.read_exact(&mut frame).await.unwrap();
            let mut decoder = Decoder::new(Agreed::default(), Limits::default(), usize::MAX);
            return decoder.decode(&frame.into()).unwrap().unwrap();
        }
    }
}

/// The number of the call that is answered, and the answer.
async fn answer<R: AsyncRead + Unpin>(stream: &mut R) -> (u32, Raw) {
    match receive(stream).await {
        Message::AliasSend { alias, message, .. } => {
            let [_, value] = message.view().tuple_n::<2>().unwrap();
            (
                alias.view().as_reference().unwrap().words()[0],
                message.sub(value),
            )
        }
        other => panic!("{other:?}"),
    }
}

/// Waits, in real time, until something is so.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not within 10 s: {what}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_chunking_of_the_bytes_gives_the_same_answers(
        sizes in proptest::collection::vec(0..3000_usize, 1..20),
        cuts in proptest::collection::vec(1..2000_usize, 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_bench, mut peer) = connected(|_| {}).await;
            let calls: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(id, size)| gen_call(id as u32, term::binary(vec![id as u8; *size])))
                .collect();
            let mut bytes = bytes_of(&calls);
            let mut cuts = cuts.iter().cycle();
            while let Some(cut) = cuts.next().filter(|_| !bytes.is_empty()) {
                let chunk = bytes.split_to((*cut).min(bytes.len()));
                peer.write_all(&chunk).await.unwrap();
                tokio::task::yield_now().await;
            }
            for (id, size) in sizes.iter().enumerate() {
                let expected = raw(term::binary(vec![id as u8; *size]));
                prop_assert_eq!(answer(&mut peer).await, (id as u32, expected));
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_the_connection_and_says_so() {
    let (bench, mut peer) = connected(|options| options.max_frame = 1000).await;
    peer.write_all(&1001_u32.to_be_bytes()).await.unwrap();
    match bench.task.await.unwrap() {
        DownReason::Protocol(why) => assert!(
            why.contains("1001") && why.contains("--max-frame") && why.contains("1000"),
            "{why}"
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unreadable_message_costs_only_itself() {
    let (_bench, mut peer) = connected(|_| {}).await;
    let mut broken = bytes_of(&[gen_call(1, term::atom("first"))]).to_vec();
    let last = broken.len() - 7;
    broken[last] = 255;
    peer.write_all(&broken).await.unwrap();
    peer.write_all(&[0, 0, 0, 3, 131, 68, 0]).await.unwrap();
    peer.write_all(&bytes_of(&[gen_call(2, term::atom("second"))]))
        .await
        .unwrap();
    assert_eq!(answer(&mut peer).await, (2, call::atom("second")));
}

#[tokio::test]
async fn a_service_that_panics_loses_one_request() {
    let (_bench, mut peer) = connected(|_| {}).await;
    let calls = bytes_of(&[
        gen_call(1, term::atom("panic")),
        to_toy(term::atom("panic")),
        gen_call(2, term::atom("panic_later")),
        gen_call(3, term::atom("later")),
    ]);
    peer.write_all(&calls).await.unwrap();
    let mut panicked = Vec::new();
    let mut answered = None;
    while panicked.len() < 2 || answered.is_none() {
        match receive(&mut peer).await {
            Message::MonitorExit {
                reference, reason, ..
            } => {
                assert_eq!(reason, call::atom("function_panicked"));
                panicked.push(reference.view().as_reference().unwrap().words()[0]);
            }
            Message::AliasSend { message, .. } => answered = Some(message),
            other => panic!("{other:?}"),
        }
    }
    panicked.sort_unstable();
    assert_eq!(panicked, [1, 2]);
    let answered = answered.unwrap();
    assert!(answered.view().tuple_n::<2>().unwrap()[1].is_atom("at_last"));
}

/// Counts the writes that reach the socket.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn the_answers_to_one_read_leave_in_one_write() {
    let (stream, mut peer) = duplex(256 * 1024);
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Counted {
        stream,
        writes: writes.clone(),
    };
    let _bench = bench(counted, |_| {}).await;
    let calls: Vec<_> = (0..100).map(|id| gen_call(id, term::int(1))).collect();
    peer.write_all(&bytes_of(&calls)).await.unwrap();
    for id in 0..100 {
        assert_eq!(answer(&mut peer).await.0, id);
    }
    assert_eq!(writes.load(Ordering::Relaxed), 1);
}

/// What is in flight is bounded by the marks of this file, however much is asked for.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_cut_after_the_tick_time_and_holds_bounded_memory() {
    let (ours, theirs) = duplex(64 * 1024);
    let bench = bench(ours, |options| {
        options.tick_time = Duration::from_secs(8);
    })
    .await;
    let (mut unread, mut writer) = tokio::io::split(theirs);
    // Each call is some 60 bytes and asks for a megabyte.
    let calls: Vec<_> = (0..2000)
        .map(|id| gen_call(id, term::atom("large")))
        .collect();
    let bytes = bytes_of(&calls);
    let start = Instant::now();
    let asking = tokio::spawn(async move { writer.write_all(&bytes).await });
    assert_eq!(bench.task.await.unwrap(), DownReason::NotReading);
    let took = start.elapsed();
    assert!(
        (Duration::from_secs(8)..=Duration::from_secs(11)).contains(&took),
        "{took:?}"
    );
    let _ = asking.await;
    // What was written before is all that can still be read.
    let mut rest = Vec::new();
    unread.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= 64 * 1024);
}

#[tokio::test]
async fn answers_stop_when_nobody_reads_them() {
    let node = Node::start(
        {
            let mut options =
                Options::new("own@127.0.0.1".parse().unwrap(), Cookie::new("c").unwrap());
            options.listen = None;
            options.epmd_mode = EpmdMode::Unregistered;
            options
        },
        Arc::new(Toy::default()),
    )
    .await
    .unwrap();
    let info = PeerInfo {
        name: "peer@h".parse().unwrap(),
        creation: 9,
        hidden: false,
        connection: 1,
        since: std::time::SystemTime::now(),
    };
    let mut connection = connection(&node, &info, Agreed::default());
    let calls: Vec<_> = (0..200)
        .map(|id| gen_call(id, term::atom("large")))
        .collect();
    let mut input = BytesMut::from(&bytes_of(&calls)[..]);
    assert_eq!(connection.frames(&mut input), Ok(true));
    assert!(connection.out.len() < FULL + 2 * 1024 * 1024);
    assert!(!input.is_empty());

    // The large frame that is through leaves nothing of its size behind, not even with a byte of the next one there.
    for behind in [0, 1] {
        connection.out = Outbox::new(Agreed::default());
        let large = to_toy(term::tuple([
            term::atom("$gen_cast"),
            term::binary(vec![0; 8 * 1024 * 1024]),
        ]));
        let mut input = BytesMut::from(&bytes_of(&[large])[..]);
        input.extend_from_slice(&vec![0; behind]);
        assert_eq!(connection.frames(&mut input), Ok(false));
        assert_eq!(input.len(), behind);
        assert!(!input.try_reclaim(1024 * 1024), "a peak is kept");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_that_goes_on_reading_is_kept() {
    let (ours, mut peer) = duplex(64 * 1024);
    let bench = bench(ours, |options| {
        options.tick_time = Duration::from_secs(8);
    })
    .await;
    let calls: Vec<_> = (0..100)
        .map(|id| gen_call(id, term::atom("large")))
        .collect();
    peer.write_all(&bytes_of(&calls)).await.unwrap();
    // 100 MiB at 1 MiB/s: far longer than the tick time, and the peer's own ticks do not get through meanwhile.
    let mut chunk = vec![0; 1024 * 1024];
    for _ in 0..90 {
        peer.read_exact(&mut chunk).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!bench.task.is_finished());
        if tokio::time::timeout(Duration::from_millis(1), peer.write_all(&[0; 4]))
            .await
            .is_err()
        {
            panic!("four bytes always have room in the pipe");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_sent_ticks_and_then_dropped() {
    let (bench, mut peer) = connected(|options| options.tick_time = Duration::from_secs(8)).await;
    let start = Instant::now();
    let mut ticks = Vec::new();
    while let Ok(length) = peer.read_u32().await {
        assert_eq!(length, 0);
        ticks.push(start.elapsed());
    }
    assert_eq!(bench.task.await.unwrap(), DownReason::TickTimeout);
    assert!(ticks.len() >= 3, "{ticks:?}");
    let mut before = Duration::ZERO;
    for tick in ticks {
        assert!(tick - before <= Duration::from_secs(2) + Duration::from_millis(10));
        before = tick;
    }
}

/// The read is always ready, so anything that waited for a pause in it would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_pauses_starves_neither_our_calls_nor_the_clock() {
    /// Casts without end, and keeps what is written to it.
    struct Flood {
        cast: Bytes,
        at: usize,
        written: Arc<Mutex<Vec<u8>>>,
    }
    impl AsyncRead for Flood {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            // As a socket does: now and then the runtime asks the whole task to pause, not only this branch.
            let progress = std::task::ready!(tokio::task::coop::poll_proceed(cx));
            progress.made_progress();
            while buf.remaining() > 0 {
                let count = buf.remaining().min(self.cast.len() - self.at);
                let from = self.at;
                buf.put_slice(&self.cast[from..from + count]);
                self.at = (from + count) % self.cast.len();
            }
            Poll::Ready(Ok(()))
        }
    }
    impl AsyncWrite for Flood {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.written.lock().unwrap().extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    let written = Arc::new(Mutex::new(Vec::new()));
    let flood = Flood {
        cast: bytes_of(&[to_toy(term::tuple([term::atom("$gen_cast"), term::int(1)]))]),
        at: 0,
        written: written.clone(),
    };
    let bench = bench(flood, |options| {
        options.tick_time = Duration::from_millis(400);
    })
    .await;
    let seen = |bytes: &[u8]| {
        let written = written.lock().unwrap();
        written.windows(bytes.len()).any(|window| window == bytes)
    };
    until("a tick", || seen(&[0; 4])).await;
    let message = to_toy(term::atom("ours"));
    let expected = bytes_of(std::slice::from_ref(&message));
    assert!(bench.handle.send(Command::Write(message)).await);
    until("our message", || seen(&expected)).await;
    assert!(bench.toy.casts.load(Ordering::Relaxed) > 0);
    bench.handle.close(DownReason::Requested);
    assert_eq!(bench.task.await.unwrap(), DownReason::Requested);
}

/// Both have far more to say than fits the pipe between them, and each message is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_flood_each_other_both_get_all_answers() {
    let (a, b) = duplex(64 * 1024);
    let (a, b) = (bench(a, |_| {}).await, bench(b, |_| {}).await);
    let flood = |handle: Handle| async move {
        let request = raw(term::binary(vec![7; 512 * 1024]));
        let mut answers = Vec::new();
        for number in 0..60 {
            let (answer, wait) = oneshot::channel();
            let command = Command::GenCall {
                number: 1 << 20 | number,
                process: call::atom("toy"),
                request: request.clone(),
                answer,
            };
            assert!(handle.send(command).await);
            answers.push(wait);
        }
        for answer in answers {
            answer.await.unwrap().unwrap();
        }
    };
    let both = async {
        tokio::join!(flood(a.handle.clone()), flood(b.handle.clone()));
    };
    tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("both stopped reading");
}

#[tokio::test]
async fn what_was_sent_before_the_end_is_written() {
    let (bench, mut peer) = connected(|_| {}).await;
    let messages: Vec<_> = (0..50).map(|n| to_toy(term::int(n))).collect();
    for message in &messages {
        assert!(bench.handle.send(Command::Write(message.clone())).await);
    }
    bench.handle.close(DownReason::Stopping);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert!(bytes_of(&messages) == got, "{} bytes arrived", got.len());
    drop(peer);
    assert_eq!(bench.task.await.unwrap(), DownReason::Stopping);
}

#[tokio::test]
async fn the_end_of_the_peer_ends_our_calls() {
    let (bench, mut peer) = connected(|_| {}).await;
    let (answer, wait) = oneshot::channel();
    let command = Command::Call {
        number: 1 << 20,
        module: call::atom("m"),
        function: call::atom("f"),
        args: call::nil(),
        answer,
    };
    assert!(bench.handle.send(command).await);
    assert!(matches!(
        receive(&mut peer).await,
        Message::SpawnRequest { .. }
    ));
    drop(peer);
    assert_eq!(bench.task.await.unwrap(), DownReason::Closed);
    assert_eq!(
        wait.await.unwrap(),
        Err(Failure::NoConnection(DownReason::Closed))
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_given_up_while_the_mailbox_was_full_is_taken_back_by_the_clock() {
    let (bench, mut peer) = connected(|_| {}).await;
    let (answer, wait) = oneshot::channel();
    let command = Command::GenCall {
        number: 1 << 20,
        process: call::atom("server"),
        request: call::nil(),
        answer,
    };
    assert!(bench.handle.send(command).await);
    assert!(matches!(receive(&mut peer).await, Message::Monitor { .. }));
    assert!(matches!(receive(&mut peer).await, Message::RegSend { .. }));
    // As when the Abandon did not fit.
    drop(wait);
    assert!(matches!(
        receive(&mut peer).await,
        Message::Demonitor { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_cast_function_runs_to_its_end_and_a_call_does_not() {
    let (bench, mut peer) = connected(|_| {}).await;
    let spawn = |function: &str, id: u32, args: Vec<Term>| Message::SpawnRequest {
        id: raw(term::tuple([term::int(i64::from(id))])),
        from: raw(peer_pid()),
        leader: raw(peer_pid()),
        mfa: raw(term::tuple([
            term::atom("erpc"),
            term::atom(function),
            term::int(args.len() as i64),
        ])),
        options: raw(term::list(if function == "execute_call" {
            vec![term::atom("monitor")]
        } else {
            vec![]
        })),
        args: raw(term::list(args)).into(),
    };
    let mfa = || vec![term::atom("toy"), term::atom("slow"), term::nil()];
    let call = [vec![term::int(1)], mfa()].concat();
    let requests = bytes_of(&[
        spawn("execute_call", 1, call),
        spawn("execute_cast", 2, mfa()),
    ]);
    peer.write_all(&requests).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(
            receive(&mut peer).await,
            Message::SpawnReply { .. }
        ));
    }
    drop(peer);
    assert_eq!(bench.task.await.unwrap(), DownReason::Closed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.toy.finished.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_peer_to_which_too_much_is_owed_loses_the_connection() {
    // It takes nothing from the start, and its room is small.
    let (own, _peer) = duplex(64);
    let bench = bench(own, |_| {}).await;
    let owed = || {
        Command::Write(Message::Send {
            to: call::atom("pid"),
            message: Raw::encode(&term::binary(vec![7; 1024])).into(),
        })
    };
    // What fits the buffer for what is to be written is taken out of the mailbox.
    let mut sent = 0;
    while bench.handle.close.borrow().is_none() && sent < 3 * MAX_OWED {
        bench.handle.owe(owed());
        sent += 1;
    }
    assert!(sent > MAX_OWED);
    assert_eq!(bench.task.await.unwrap(), DownReason::NotReading);
}
