%% The Erlang side of `make bench-dist`: a node that is measured, and a node that measures.
%%
%% Every one has the processes `echo` and `sink` of the contract (as `redgrid node --echo` has them). It does what it is
%% told on its standard input, one line a command, and ends when that is closed, so also when the bench is killed.
%%
%%   otp                         OTP-RELEASE ERTS-VERSION
%%   connect NODE                connects, answers `up`
%%   run NODE MS TEST SIZE       `ready` when it is warmed up, or `unable WHY`, when NODE has no such thing;
%%                               then it awaits `go`, and answers `done COUNT NS P50 P99 EXTRA` (P50 and P99 in ns)
%%                               or `failed WHY`: what was to come back did not, or was something else
%%
%% | TEST | One operation is | SIZE |
%% |---|---|---|
%% | `call` | `gen_server:call`, of SIZE callers at a time | callers |
%% | `raw` | `{self(), Ref, X}` to echo and back, of SIZE callers at a time | callers |
%% | `rpc` | `rpc:call` of `erlang:node/0`, of SIZE callers at a time | callers |
%% | `sink` | one message of SIZE bytes, one way; at the end the sink must have counted all | bytes |
%% | `big` | one binary of SIZE bytes to echo and back | bytes |
%% | `mix` | a small call, one after the other, while binaries go to echo and back; EXTRA: how many of these | bytes |
%% | `nested` | a term of SIZE records, maps and proplists to echo and back; EXTRA: its bytes | items |
-module(dist).
-behaviour(gen_server).
-export([main/0, init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% How long one answer may take.
-define(PATIENCE, 10000).

main() ->
    {ok, _} = gen_server:start_link({local, echo}, ?MODULE, echo, []),
    {ok, _} = gen_server:start_link({local, sink}, ?MODULE, 0, []),
    loop().

%% ------------------------------------------------------------------ what is measured

init(State) -> {ok, State}.
handle_call(Request, _From, State) -> {reply, Request, State}.
handle_cast(_, State) -> {noreply, State}.

handle_info({data, _}, Count) when is_integer(Count) -> {noreply, Count + 1};
handle_info({total, From}, Count) when is_integer(Count) -> From ! {total, Count}, {noreply, 0};
handle_info({From, Ref, Payload}, State) -> From ! {Ref, Payload}, {noreply, State};
handle_info(_, State) -> {noreply, State}.

%% ------------------------------------------------------------------ what measures

loop() ->
    case io:get_line("") of
        Line when is_list(Line) ->
            say(told(string:lexemes(Line, " \n"))),
            loop();
        _ ->
            halt(0, [{flush, false}])
    end.

say(Text) -> io:put_chars([Text, $\n]).

told(["otp"]) ->
    [erlang:system_info(otp_release), " ", erlang:system_info(version)];
told(["connect", Node]) ->
    connect(list_to_atom(Node), 200);
told(["run", Node, Ms, Test, Size]) ->
    run(list_to_atom(Node), list_to_integer(Ms), list_to_atom(Test), list_to_integer(Size)).

connect(_, 0) -> "failed no connection in 20 s";
connect(Node, Tries) ->
    case net_kernel:connect_node(Node) of
        true -> "up";
        false -> timer:sleep(100), connect(Node, Tries - 1)
    end.

%% The test has a process of its own, with a heap of its own.
run(Node, Ms, Test, Size) ->
    Parent = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        Measure = test(Test, Node, Size),
        _ = Measure(Ms div 5),
        erlang:garbage_collect(),
        Parent ! {ready, self()},
        receive go -> exit({done, Measure(Ms)}) end
    end),
    receive
        {ready, Pid} ->
            say("ready"),
            _ = io:get_line(""),
            Pid ! go,
            result(Pid, Monitor, Ms);
        {'DOWN', Monitor, process, Pid, Reason} ->
            reason(Reason)
    after 3 * ?PATIENCE + Ms ->
        exit(Pid, kill),
        "failed it hangs"
    end.

result(Pid, Monitor, Ms) ->
    receive
        {'DOWN', Monitor, process, Pid, {done, {Count, Ns, Times, Extra}}} ->
            Sorted = lists:sort(Times),
            [lists:join(" ", ["done" | [integer_to_list(N) ||
                N <- [Count, Ns, at(Sorted, 50), at(Sorted, 99), Extra]]])];
        {'DOWN', Monitor, process, Pid, Reason} ->
            reason(Reason)
    after 3 * ?PATIENCE + Ms ->
        exit(Pid, kill),
        "failed it hangs"
    end.

reason({unable, Why}) -> short("unable ~0tp", Why);
reason(Why) -> short("failed ~0tp", Why).

short(Format, Why) -> lists:sublist(lists:flatten(io_lib:format(Format, [Why])), 200).

at([], _) -> 0;
at(Sorted, Percent) -> lists:nth(max(1, length(Sorted) * Percent div 100), Sorted).

%% Each gives a fun of the milliseconds, which gives {Operations, Nanoseconds, the time of each, Extra}.
test(call, Node, Callers) ->
    many(Callers, fun(N) -> {ping, N} = gen_server:call({echo, Node}, {ping, N}, ?PATIENCE) end);
test(raw, Node, Callers) ->
    many(Callers, fun(N) -> {ping, N} = echo(Node, {ping, N}) end);
test(rpc, Node, Callers) ->
    case rpc:call(Node, erlang, node, [], ?PATIENCE) of
        Node -> many(Callers, fun(_) -> Node = rpc:call(Node, erlang, node, []) end);
        {badrpc, Why} -> exit({unable, Why})
    end;
test(sink, Node, Size) ->
    Message = {data, rand:bytes(Size)},
    fun(Ms) -> one_way({sink, Node}, Message, max(1, min(500, 2000000 div Size)), Ms) end;
test(big, Node, Size) ->
    Binary = rand:bytes(Size),
    Binary = echo(Node, Binary),
    many(1, fun(_) -> Size = byte_size(echo(Node, Binary)) end);
test(mix, Node, Size) ->
    Binary = rand:bytes(Size),
    Binary = echo(Node, Binary),
    fun(Ms) -> mix(Node, Binary, Ms) end;
test(nested, Node, Items) ->
    Term = [item(N) || N <- lists:seq(1, Items)],
    Term = echo(Node, Term),
    Bytes = erlang:external_size(Term),
    Run = many(1, fun(_) -> [_ | _] = echo(Node, Term) end),
    fun(Ms) -> setelement(4, Run(Ms), Bytes) end.

echo(Node, Payload) ->
    Ref = make_ref(),
    {echo, Node} ! {self(), Ref, Payload},
    receive {Ref, Back} -> Back after ?PATIENCE -> exit(no_answer) end.

many(Callers, Operation) ->
    fun(Ms) ->
        Begin = now_ns(),
        End = Begin + Ms * 1000000,
        Pids = [spawn_monitor(fun() -> exit({times, times(Operation, End, now_ns(), 0, [])}) end)
                || _ <- lists:seq(1, Callers)],
        Times = lists:append([times_of(Pid) || Pid <- Pids]),
        {length(Times), now_ns() - Begin, Times, 0}
    end.

times(Operation, End, Begin, N, Times) ->
    Operation(N),
    Now = now_ns(),
    All = [Now - Begin | Times],
    if Now < End -> times(Operation, End, now_ns(), N + 1, All);
       true -> All
    end.

times_of({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, {times, Times}} -> Times;
        {'DOWN', Monitor, process, Pid, Why} -> exit(Why)
    end.

%% What is counted at the end was counted: the time goes on until the sink has told so.
one_way(Sink, Message, Batch, Ms) ->
    _ = total(Sink),
    Begin = now_ns(),
    Count = send(Sink, Message, Batch, Begin + Ms * 1000000, 0),
    case total(Sink) of
        Count -> {Count, now_ns() - Begin, [], 0};
        Other -> exit({sent, Count, counted, Other})
    end.

total(Sink) ->
    Sink ! {total, self()},
    receive {total, Count} -> Count after ?PATIENCE -> exit(no_total) end.

send(Sink, Message, Batch, End, Count) ->
    batch(Sink, Message, Batch),
    case now_ns() < End of
        true -> send(Sink, Message, Batch, End, Count + Batch);
        false -> Count + Batch
    end.

batch(_, _, 0) -> ok;
batch(Sink, Message, Left) -> Sink ! Message, batch(Sink, Message, Left - 1).

mix(Node, Binary, Ms) ->
    Size = byte_size(Binary),
    Bigs = many(1, fun(_) -> Size = byte_size(echo(Node, Binary)) end),
    Smalls = test(call, Node, 1),
    {Pid, Monitor} = spawn_monitor(fun() -> exit({big, Bigs(Ms)}) end),
    Result = Smalls(Ms),
    receive
        {'DOWN', Monitor, process, Pid, {big, {Big, _, _, _}}} -> setelement(4, Result, Big);
        {'DOWN', Monitor, process, Pid, Why} -> exit(Why)
    end.

%% What a service keeps of its customers: a record, a map, a proplist in turn.
item(N) when N rem 3 =:= 0 ->
    {customer, N, text(<<"customer ">>, N), {address, text(<<"Main street ">>, N), 10000 + N, "Springville"},
     [gold, newsletter], N * 1.25, undefined, {{2024, 2, 29}, {12, N rem 60, 0}}};
item(N) when N rem 3 =:= 1 ->
    #{id => N, name => text(<<"customer ">>, N), tags => [silver, newsletter], balance => N * 7000001,
      rate => N / 8, <<"note">> => <<>>, place => #{city => "Springville", at => {N, -N}}};
item(N) ->
    [{id, N}, {name, text(<<"customer ">>, N)}, active, {balance, -N}, {rate, -0.5 * N},
     {place, [{city, <<"Springville">>}, {at, {N, -N}}]}, {parent, undefined}].

text(Prefix, N) -> <<Prefix/binary, (integer_to_binary(N))/binary>>.

now_ns() -> erlang:monotonic_time(nanosecond).
