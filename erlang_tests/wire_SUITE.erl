%% Bytes that no node should send: what was sent suffers, be it a message or its connection, and nobody else.
-module(wire_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([a_node_made_by_hand_is_taken_for_one/1,
         rubbish_instead_of_a_handshake_is_refused_with_one_line/1,
         a_handshake_that_stops_half_way_is_ended/1,
         a_wrong_digest_is_refused/1,
         a_name_that_is_no_node_name_is_refused/1,
         our_own_name_is_refused/1,
         a_node_without_the_flags_we_need_is_refused/1,
         many_connections_that_say_nothing_keep_nobody_out/1,
         an_oversized_frame_ends_its_connection/1,
         a_term_that_cannot_be_decoded_costs_one_message/1,
         an_unknown_control_message_costs_one_message/1,
         a_frame_that_is_none_costs_one_message/1,
         a_term_that_announces_more_than_it_has_costs_one_message/1,
         a_second_connection_of_the_same_node_takes_the_place_of_the_first/1,
         a_peer_that_does_not_read_keeps_nobody_waiting/1,
         a_thousand_random_frames_do_no_harm/1]).

-define(MAX_FRAME, 262144).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) ->
    Rust = rust:start(rust, #{args => ["--echo", "--log-level", "debug", "--max-frame", "256KiB"]}),
    [{rust, Rust}, {beam, grid:peer(beam)} | Config].

end_per_suite(_) -> grid:stop_since([]).

%% Whatever a case sends: in the end the same connection to the Erlang node stands that stood before.
init_per_testcase(_, Config) ->
    [{connection, connection(Config)} | Config].

end_per_testcase(_, Config) ->
    case connection(Config) =:= ?config(connection, Config) of
        true -> ok;
        false -> {fail, the_connection_to_the_erlang_node_was_lost}
    end.

connection(Config) ->
    #{node := Rust} = ?config(rust, Config),
    grid:on(?config(beam, Config), fun() ->
        pong = net_adm:ping(Rust),
        lists:keyfind(Rust, 1, erlang:system_info(dist_ctrl))
    end).

dial(Config) -> wire:dial(maps:get(port, ?config(rust, Config))).

connect(Config) -> connect(Config, 'raw@127.0.0.1').

connect(Config, Name) ->
    {ok, Wire} = wire:connect(maps:get(port, ?config(rust, Config)), Name, erlang:get_cookie()),
    Wire.

%% ---------------------------------------------------------------- before the handshake is done

a_node_made_by_hand_is_taken_for_one(Config) ->
    Wire = connect(Config),
    ?assert(wire:alive(Wire)),
    #{node := Rust} = ?config(rust, Config),
    ?assert(lists:member('raw@127.0.0.1', grid:call(?config(beam, Config), rpc, call, [Rust, erlang, nodes, []]))),
    wire:close(Wire).

rubbish_instead_of_a_handshake_is_refused_with_one_line(Config) ->
    Rust = ?config(rust, Config),
    Lines = fun() -> rust:said(Rust, "WARN.*a connection was refused") end,
    lists:foldl(fun(Rubbish, Before) ->
                        Socket = dial(Config),
                        ok = gen_tcp:send(Socket, Rubbish),
                        ?assert(wire:closed(Socket, 5000)),
                        grid:eventually(Before + 1, Lines),
                        Before + 1
                end, Lines(),
                ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 <<22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 0:1000>>,
                 <<255, 255, 255, 255>>,
                 <<5:16, "xxxxx">>,
                 <<0:16>>,
                 %% The handshake of OTP 22, which OTP 25 does not take either.
                 <<20:16, "n", 5:16, 0:32, "old@127.0.0.1">>,
                 <<16:16, "N", 0:64, 1:32, 600:16, "x">>,
                 rand:bytes(5000)]).

a_handshake_that_stops_half_way_is_ended(Config) ->
    Silent = dial(Config),
    Half = dial(Config),
    ok = gen_tcp:send(Half, <<40:16, "N", 1:64>>),
    Challenged = dial(Config),
    ok = gen_tcp:send(Challenged, <<28:16, "N", 16#D075F5FBD:64, 9:32, 13:16, "half@127.0.0.">>),
    %% The deadline is 7 s, for each of them.
    [?assert(wire:closed(Socket, 35000)) || Socket <- [Silent, Half, Challenged]],
    rust:saying(?config(rust, Config), "handshake was not completed within 7 s").

a_wrong_digest_is_refused(Config) ->
    #{port := Port} = Rust = ?config(rust, Config),
    ?assertMatch({error, {error, closed}}, wire:connect(Port, 'thief@127.0.0.1', not_the_cookie)),
    rust:saying(Rust, "WARN.*cookie.*thief@127.0.0.1").

a_name_that_is_no_node_name_is_refused(Config) ->
    #{port := Port} = ?config(rust, Config),
    [?assertMatch({error, _}, wire:connect(Port, Name, erlang:get_cookie()))
     || Name <- ['nohost', 'two@at@host', '@host', 'name@', 'with space@host', 'line\nbreak@host',
                 list_to_atom(lists:duplicate(255, $x))]].

our_own_name_is_refused(Config) ->
    #{port := Port, node := Node} = ?config(rust, Config),
    ?assertMatch({error, _}, wire:connect(Port, Node, erlang:get_cookie())).

a_node_without_the_flags_we_need_is_refused(Config) ->
    #{port := Port} = Rust = ?config(rust, Config),
    %% All but V4_NC, which OTP 27 demands of everybody.
    Flags = 16#D075F5FBD band bnot (1 bsl 34),
    ?assertMatch({error, {ok, <<"snot_allowed">>}}, wire:connect(Port, 'ancient@127.0.0.1', erlang:get_cookie(), Flags)),
    rust:saying(Rust, "WARN.*V4_NC").

many_connections_that_say_nothing_keep_nobody_out(Config) ->
    Sockets = [dial(Config) || _ <- lists:seq(1, 200)],
    Wire = connect(Config, 'patient@127.0.0.1'),
    ?assert(wire:alive(Wire)),
    wire:close(Wire),
    [gen_tcp:close(Socket) || Socket <- Sockets].

%% ---------------------------------------------------------------- between nodes

%% An Erlang node sends the message in fragments; from its view the connection just ends, and the next call makes a new one.
an_oversized_frame_ends_its_connection(Config) ->
    #{node := Node} = Rust = ?config(rust, Config),
    Talker = grid:peer(talker),
    grid:on(Talker, fun() ->
        fits = gen_server:call({echo, Node}, fits),
        true = monitor_node(Node, true),
        {echo, Node} ! {self(), ref, binary:copy(<<"x">>, ?MAX_FRAME)},
        receive {nodedown, Node} -> ok after 10000 -> error(still_connected) end,
        fits = gen_server:call({echo, Node}, fits)
    end),
    rust:saying(Rust, "talker@127.0.0.1.*message of more than [0-9]+ bytes.*--max-frame"),
    grid:stop(Talker),
    %% What is announced alone is enough.
    Wire = connect(Config),
    ok = wire:send(Wire, []),
    ok = inet:setopts(maps:get(socket, Wire), [{packet, raw}]),
    ok = wire:send(Wire, <<16#FFFFFFFF:32, 112>>),
    ?assert(wire:closed(Wire, 5000)),
    rust:saying(Rust, "frame of [0-9]+ bytes.*--max-frame").

%% Each is a message to echo, whose answer never comes; what follows it on the same connection is answered.
costs_one_message(Config, Payloads) ->
    Wire = connect(Config),
    lists:foreach(fun(Payload) ->
                          ok = wire:raw_frame(Wire, {6, wire:pid(Wire), '', echo}, Payload),
                          ?assertEqual({Payload, true}, {Payload, wire:alive(Wire)})
                  end, Payloads),
    wire:close(Wire).

a_term_that_cannot_be_decoded_costs_one_message(Config) ->
    costs_one_message(Config,
                      [<<>>, <<131>>, <<131, 255>>, <<130, 97, 1>>, <<97, 1>>, <<131, 97>>, <<131, 104, 3, 97, 1>>,
                       <<131, 70, 16#7FF8:16, 0:48>>,                                   % NaN
                       <<131, 70, 16#7FF0:16, 0:48>>,                                   % infinity
                       <<131, 119, 3, 255, 254, 253>>,                                  % an atom that is no UTF-8
                       <<131, 118, 300:16, (binary:copy(<<"x">>, 300))/binary>>,        % an atom of 300 characters
                       <<131, 77, 1:32, 0, 0>>, <<131, 77, 1:32, 9, 0>>,                % bitstrings of no length
                       <<131, 116, 2:32, 97, 1, 97, 1, 97, 1, 97, 2>>,                  % a map with a key twice
                       <<131, 80, 100:32, (zlib:compress(<<106>>))/binary>>,            % compressed
                       <<131, 68, 0>>, <<131, 82, 0>>,                                  % of the atom cache
                       <<131, 97, 1, 97, 2>>]).

a_term_that_announces_more_than_it_has_costs_one_message(Config) ->
    costs_one_message(Config,
                      [<<131, 108, 16#FFFFFFFF:32>>, <<131, 105, 16#FFFFFFFF:32>>, <<131, 116, 16#FFFFFFFF:32>>,
                       <<131, 109, 16#FFFFFFFF:32>>, <<131, 111, 16#FFFFFFFF:32, 0>>, <<131, 107, 16#FFFF:16>>,
                       [131, binary:copy(<<104, 1>>, 100000), 106],
                       [131, binary:copy(<<108, 1:32>>, 40000), 106],
                       [131, binary:copy(<<116, 1:32, 106>>, 30000), 106],
                       <<131, 112, 5:32>>, <<131, 90, 16#FFFF:16>>]).

an_unknown_control_message_costs_one_message(Config) ->
    Wire = connect(Config),
    Pid = wire:pid(Wire),
    lists:foreach(fun(Control) ->
                          ok = wire:frame(Wire, Control),
                          ?assertEqual({Control, true}, {Control, wire:alive(Wire)})
                  end,
                  [{99}, {99, Pid, ''}, {0}, {-1}, {1 bsl 70}, {5, Pid}, {37, 0, Pid, Pid}, {}, [], 6, "text", atom, #{},
                   {6}, {6, Pid}, {6, Pid, '', "no atom"}, {6, no_pid, '', echo}, {2}, {1, a, b}, {19, Pid},
                   {19, Pid, echo, no_ref}, {20, Pid, nobody, make_ref()}, {35, 0, Pid, Pid}, {36, 1, Pid, Pid},
                   {21, Pid, Pid, make_ref(), oops}, {29}, {29, make_ref(), Pid, Pid, no_mfa, []}, {29, make_ref(), Pid, Pid, {m, f, 0}, no_list},
                   {31, make_ref(), Pid, 0, Pid}]),
    wire:close(Wire).

a_frame_that_is_none_costs_one_message(Config) ->
    Wire = connect(Config),
    lists:foreach(fun(Frame) ->
                          ok = wire:send(Wire, Frame),
                          ?assertEqual({Frame, true}, {Frame, wire:alive(Wire)})
                  end,
                  [<<112>>, <<0>>, <<113, 1, 2, 3>>, <<131, 68, 0>>, <<131, 69, 0:64, 1:64, 0>>, <<131, 70, 0:64, 1:64>>,
                   <<112, 131>>, <<112, 255, 255>>, "text"]),
    wire:close(Wire).

a_second_connection_of_the_same_node_takes_the_place_of_the_first(Config) ->
    First = connect(Config, 'twice@127.0.0.1'),
    ?assert(wire:alive(First)),
    Second = connect(Config, 'twice@127.0.0.1'),
    ?assert(wire:closed(First, 5000)),
    ?assert(wire:alive(Second)),
    wire:close(Second).

%% 200 times 200 KiB are more than all the buffers between the two can hold.
a_peer_that_does_not_read_keeps_nobody_waiting(Config) ->
    #{node := Node} = ?config(rust, Config),
    Wire = connect(Config, 'deaf@127.0.0.1'),
    Big = binary:copy(<<"x">>, 200 * 1024),
    Pid = wire:pid(Wire),
    Sending = spawn(fun() ->
                            receive go -> ok end,
                            [wire:frame(Wire, {6, Pid, '', echo}, {Pid, N, Big}) || N <- lists:seq(1, 200)]
                    end),
    ok = gen_tcp:controlling_process(maps:get(socket, Wire), Sending),
    Sending ! go,
    grid:on(?config(beam, Config), fun() ->
        [?assertEqual(N, gen_server:call({echo, Node}, N)) || N <- lists:seq(1, 1000)]
    end),
    exit(Sending, kill).

a_thousand_random_frames_do_no_harm(Config) ->
    Seed = rand:seed(exsss),
    ct:log("seed: ~p", [rand:export_seed_s(Seed)]),
    Wire = connect(Config, 'monkey@127.0.0.1'),
    Pid = wire:pid(Wire),
    lists:foreach(fun(_) ->
                          Name = lists:nth(rand:uniform(4), [echo, redgrid, rex, net_kernel]),
                          Control = term_to_binary({rand:uniform(40), Pid, '', Name}),
                          Request = [{rand:uniform(100), "text", #{a => 1.5}}],
                          Payload = term_to_binary({'$gen_call', {Pid, make_ref()}, Request}),
                          Frame = iolist_to_binary([112, broken(Control), broken(Payload)]),
                          ok = wire:send(Wire, Frame)
                  end, lists:seq(1, 1000)),
    ?assert(wire:alive(Wire)),
    wire:close(Wire).

%% One byte of it is another, or its end is missing, or it is whole.
broken(Bytes) ->
    At = rand:uniform(byte_size(Bytes)) - 1,
    <<Before:At/binary, _, After/binary>> = Bytes,
    case rand:uniform(3) of
        1 -> [Before, rand:uniform(256) - 1, After];
        2 -> Before;
        3 -> Bytes
    end.
