//! Large messages: they come in fragments, keep nobody else waiting, are held once, and leave no memory behind.

use crate::support::{eventually, host::Host, program::Program};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_binary_of_256_mebibytes_is_held_once_and_keeps_nobody_waiting() {
    let host = Host::start();
    let node = host.node("a@127.0.0.1", &["--echo"]).await;
    let mut erl = host.beam("erl").await;
    assert_eq!(erl.value("net_adm:ping('a@127.0.0.1')").await, "pong");

    let idle = memory(&node, "VmRSS:");
    // How many small calls of another process are answered between the large one and its answer.
    let meanwhile = erl
        .value(
            "Echo = {echo, 'a@127.0.0.1'}, Me = self(), \
             Big = binary:copy(<<\"0123456789abcdef\">>, 16 * 1024 * 1024), \
             spawn(fun() -> Me ! {big, Big =:= gen_server:call(Echo, Big, infinity)} end), \
             Small = fun(Small, N) -> \
                 receive {big, Same} -> {Same, N} \
                 after 0 -> N = gen_server:call(Echo, N, infinity), Small(Small, N + 1) \
                 end \
             end, \
             {true, Calls} = Small(Small, 0), Calls",
        )
        .await;
    let meanwhile: usize = meanwhile.parse().unwrap();
    assert!(meanwhile > 10, "{meanwhile} small calls were answered");

    let most = memory(&node, "VmHWM:");
    assert!(
        most < idle + (256 + 96) * MIB,
        "{} MiB at the most, {} MiB before",
        most / MIB,
        idle / MIB
    );
    eventually("the memory is given back", async || {
        (memory(&node, "VmRSS:") < idle + 32 * MIB).then_some(())
    })
    .await;
}

/// A value of `/proc/PID/status`, in bytes.
fn memory(program: &Program, key: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}
