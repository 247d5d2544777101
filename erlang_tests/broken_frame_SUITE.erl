%% What no node should send where frames have headers: what breaks the header or the order of fragments ends its own
%% connection with a line that says why, what breaks one message costs that one. The same without headers is in
%% wire_SUITE.
-module(broken_frame_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-import(by_hand, [with_headers/0, with_fragments/0, connect/2, connect/3, echoed/2]).

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([a_broken_header_ends_its_connection/1,
         atoms_that_were_not_agreed_upon_end_the_connection/1,
         fragments_out_of_order_end_their_connection/1,
         a_fragmented_message_that_is_too_long_ends_its_connection/1,
         too_many_incomplete_messages_end_their_connection/1,
         a_payload_that_is_no_term_costs_one_message/1,
         a_control_message_that_is_none_costs_one_message/1,
         a_frame_that_was_not_agreed_upon_costs_one_message/1,
         what_is_refused_is_told_and_counted/1,
         a_thousand_random_frames_do_no_harm/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) -> by_hand:init_per_suite(Config).

end_per_suite(_) -> grid:stop_since([]).

init_per_testcase(_, Config) -> by_hand:init_per_testcase(Config).

end_per_testcase(_, Config) -> by_hand:end_per_testcase(Config).

%% ---------------------------------------------------------------- what ends the connection

%% After these frames the connection ends, with a line that says why. `Name` is of this case alone.
ends(Config, Name, Options, Why, Frames) ->
    Wire = connect(Config, Name, Options),
    ?assert(wire:alive(Wire)),
    %% It may be over before all is sent.
    _ = [wire:send(Wire, Frame) || Frame <- Frames],
    ?assertEqual({Name, true}, {Name, wire:closed(Wire, 5000)}),
    wire:close(Wire),
    rust:saying(?config(rust, Config), ["disconnected.*", atom_to_list(Name), ".*(broke the protocol|more than we take).*", Why]).

named(What, Number) -> list_to_atom(lists:concat([What, Number, "@127.0.0.1"])).

a_broken_header_ends_its_connection(Config) ->
    To = {6, self(), '', echo},
    Terms = [wire:cached(To, []), wire:cached(payload, [])],
    Behind = fun(Header) -> [131, 68, Header, Terms] end,
    Cases = [{"never filled", Behind(wire:header([{old, 5}]))},
             {"never filled", Behind(wire:header([{new, 5, five}, {old, 6}]))},
             {"never filled", Behind(wire:header([{old, 2047}]))},
             {"cut off", <<131, 68, 1>>},
             {"cut off", <<131, 68, 255, 0>>},
             {"cut off", <<131, 68, 1, 8>>},
             {"cut off", <<131, 68, 1, 8, 0>>},
             {"cut off", <<131, 68, 1, 8, 0, 10, "short">>},
             {"cut off", <<131, 68, 1, 16#18, 0, 2, 0, "a">>},
             {"atom .*that is none", Behind(wire:header([{new, 5, <<255, 254>>}]))},
             {"atom .*that is none", Behind(wire:header([{new, 5, binary:copy(<<"x">>, 256)}]))},
             {"atom .*that is none", Behind(wire:header([{new, 5, binary:copy(<<"x">>, 60000)}]))}],
    lists:foreach(fun({Number, {Why, Frame}}) ->
                          ends(Config, named("header", Number), [cache, fragments], Why, [Frame])
                  end, lists:zip(lists:seq(1, length(Cases)), Cases)),
    %% The same in the first of many fragments.
    ends(Config, named("header", first), [cache, fragments], "never filled",
         [wire:first(1, 2, [{old, 7}], To, <<>>)]).

%% One frame with an entry in its header, which for an Erlang node is the end.
atoms_that_were_not_agreed_upon_end_the_connection(Config) ->
    ends(Config, named("uncached", 1), [fragments], "not agreed",
         [wire:whole([{new, 5, echo}], {6, self(), '', echo}, wire:cached(payload, []))]).

fragments_out_of_order_end_their_connection(Config) ->
    To = {6, self(), '', echo},
    First = fun(Number) -> wire:first(7, Number, [], To, <<"begin">>) end,
    Cases = [{"never began", [wire:next(7, 1, <<"x">>)]},
             {"never began", [First(1), wire:next(7, 1, <<"x">>)]},
             {"never began", [First(2), wire:next(7, 1, <<"x">>), wire:next(7, 1, <<"x">>)]},
             {"never began", [First(2), wire:next(8, 1, <<"x">>)]},
             {"not the next", [First(3), wire:next(7, 1, <<"x">>)]},
             {"not the next", [First(3), wire:next(7, 3, <<"x">>)]},
             {"not the next", [First(3), wire:next(7, 2, <<"x">>), wire:next(7, 2, <<"x">>)]},
             {"not the next", [First(2), wire:next(7, (1 bsl 64) - 1, <<"x">>)]},
             {"before the one of the same number", [First(2), First(2)]},
             {"number 0", [First(0)]},
             {"number 0", [First(2), wire:next(7, 0, <<"x">>)]},
             {"cut off", [<<131, 69>>]},
             {"cut off", [<<131, 69, 7:64, 1:56>>]},
             {"cut off", [<<131, 70, 7:64>>]}],
    [ends(Config, named("fragments" ++ integer_to_list(length(Agreed)) ++ "x", Number), Agreed, Why, Frames)
     || Agreed <- [[fragments], [cache, fragments]],
        {Number, {Why, Frames}} <- lists:zip(lists:seq(1, length(Cases)), Cases)].

a_fragmented_message_that_is_too_long_ends_its_connection(Config) ->
    #{node := Small} = Rust = rust:start(small, #{args => ["--echo", "--max-frame", "256KiB"]}),
    Here = [{rust, Rust} | Config],
    Part = binary:copy(<<"x">>, 60000),
    Long = fun(Sequence, Announced, Sent) ->
                   [wire:first(Sequence, Announced, [], {6, self(), '', echo}, Part)
                    | [wire:next(Sequence, Announced - N, Part) || N <- lists:seq(1, Sent)]]
           end,
    ends(Here, named("long", 1), [fragments], "more than 262144 bytes, and --max-frame", Long(1, 10, 9)),
    ends(Here, named("long", 2), [fragments], "more than 262144 bytes, and --max-frame", Long(1, (1 bsl 64) - 1, 9)),
    %% Each is short enough, and none comes to its end.
    ends(Here, named("long", 3), [fragments], "more than 268435456 bytes of incomplete messages",
         lists:append([Long(Sequence, 10, 3) || Sequence <- lists:seq(1, 1200)])),
    %% What fits is answered.
    Wire = connect(Here, [fragments]),
    echoed(Wire, binary:copy(<<"x">>, 200000)),
    wire:close(Wire),
    ?assertEqual(pong, grid:call(?config(beam, Config), net_adm, ping, [Small])).

too_many_incomplete_messages_end_their_connection(Config) ->
    First = fun(Sequence) ->
                    Frame = iolist_to_binary(wire:first(Sequence, 2, [], {6, self(), '', echo}, <<>>)),
                    <<(byte_size(Frame)):32, Frame/binary>>
            end,
    Wire = connect(Config, 'hoarder@127.0.0.1', [fragments]),
    ok = inet:setopts(maps:get(socket, Wire), [{packet, raw}]),
    _ = wire:send(Wire, [First(Sequence) || Sequence <- lists:seq(1, 16385)]),
    ?assert(wire:closed(Wire, 5000)),
    rust:saying(?config(rust, Config), "disconnected.*hoarder@127.0.0.1.*too many incomplete messages").

%% ---------------------------------------------------------------- what costs one message

%% None of these frames is answered; the same connection goes on.
costs_one_message(Config, Options, Frames) ->
    Wire = connect(Config, Options),
    lists:foreach(fun(Frame) ->
                          ok = wire:send(Wire, Frame),
                          ?assertEqual({Options, Frame, true}, {Options, Frame, wire:alive(Wire)})
                  end, Frames),
    echoed(Wire, {after_it, all}),
    wire:close(Wire).

no_terms() ->
    [<<131>>, <<255>>, <<97>>, <<131, 97, 1>>, <<104, 3, 97, 1>>, <<70, 16#7FF8:16, 0:48>>, <<119, 3, 255, 254, 253>>,
     <<118, 300:16, (binary:copy(<<"x">>, 300))/binary>>, <<77, 1:32, 9, 0>>, <<116, 2:32, 97, 1, 97, 1, 97, 1, 97, 2>>,
     <<80, 100:32, (zlib:compress(<<106>>))/binary>>, <<68, 0>>, <<82, 0>>, <<82, 255>>, <<108, 16#FFFFFFFF:32>>,
     <<109, 16#FFFFFFFF:32>>, [binary:copy(<<104, 1>>, 20000), 106], [binary:copy(<<108, 1:32>>, 20000), 106]].

a_payload_that_is_no_term_costs_one_message(Config) ->
    To = {6, self(), '', echo},
    [costs_one_message(Config, Agreed, [wire:whole([], To, Payload) || Payload <- [<<>> | no_terms()]]) || Agreed <- with_headers()],
    lists:foreach(fun(Agreed) ->
        Wire = connect(Config, Agreed),
        [begin
             ok = wire:send(Wire, wire:first(9, 1, [], To, Payload)),
             ok = wire:send(Wire, wire:first(9, 3, [], To, <<>>)),
             ok = wire:send(Wire, wire:next(9, 2, Payload)),
             ?assert(wire:alive(Wire)),
             ok = wire:send(Wire, wire:next(9, 1, <<>>)),
             ?assertEqual({Payload, true}, {Payload, wire:alive(Wire)})
         end || Payload <- [<<>> | no_terms()]],
        %% An entry that its header does not have.
        ok = wire:send(Wire, wire:first(9, 2, [{new, 1, a} || lists:member(cache, Agreed)], To, <<82>>)),
        ok = wire:send(Wire, wire:next(9, 1, <<1>>)),
        echoed(Wire, {after_it, all}),
        wire:close(Wire)
    end, with_fragments()).

a_control_message_that_is_none_costs_one_message(Config) ->
    Unknown = [{99}, {0}, {-1}, {1 bsl 70}, {5, self()}, {}, [], 6, "text", atom, #{}, {6}, {37}, {37, 4}, {37, 4, self()}, {33, self()},
               {38, 0, self(), self()}],
    Bytes = [wire:cached(Control, []) || Control <- Unknown] ++ no_terms(),
    [costs_one_message(Config, Agreed, [[131, 68, 0, Control, wire:cached(payload, [])] || Control <- Bytes])
     || Agreed <- with_headers()],
    %% The fragments of a message that cannot be read are told from others.
    lists:foreach(fun(Agreed) ->
        Wire = connect(Config, Agreed),
        [begin
             ok = wire:send(Wire, [<<131, 69, 9:64, 3:64, 0>>, Control]),
             ?assert(wire:alive(Wire)),
             ok = wire:send(Wire, wire:next(9, 2, <<"rest">>)),
             ok = wire:send(Wire, wire:next(9, 1, <<"rest">>)),
             ?assertEqual({Control, true}, {Control, wire:alive(Wire)})
         end || Control <- Bytes],
        echoed(Wire, {after_it, all}),
        wire:close(Wire)
    end, with_fragments()).

a_frame_that_was_not_agreed_upon_costs_one_message(Config) ->
    PassThrough = [112, term_to_binary({6, self(), '', echo}), term_to_binary(payload)],
    Whole = wire:whole([], {6, self(), '', echo}, wire:cached(payload, [])),
    First = wire:first(1, 2, [], {6, self(), '', echo}, <<>>),
    Next = wire:next(1, 1, <<>>),
    Rubbish = [<<0>>, <<112>>, <<113, 1, 2>>, <<131>>, <<131, 67>>, <<131, 71, 0>>, "text"],
    costs_one_message(Config, [], [Whole, First, Next | Rubbish]),
    costs_one_message(Config, [cache], [PassThrough, First, Next | Rubbish]),
    costs_one_message(Config, [fragments], [PassThrough | Rubbish]),
    costs_one_message(Config, [cache, fragments], [PassThrough | Rubbish]).

what_is_refused_is_told_and_counted(Config) ->
    Rust = ?config(rust, Config),
    lists:foreach(fun({Name, What, Frame}) ->
        Wire = connect(Config, Name, [cache, fragments]),
        Line = fun(Level, Count) ->
                       rust:saying(Rust, [Level, ".*a message was refused: .*", What, ".*", atom_to_list(Name),
                                          ".*count=", integer_to_list(Count), "( |$)"])
               end,
        [begin
             ok = wire:send(Wire, Frame),
             ?assert(wire:alive(Wire)),
             Line(case Count of 3 -> "DEBUG"; _ -> "WARN" end, Count)
         end || Count <- [1, 2, 3, 4]],
        wire:close(Wire)
    end,
    [{'payload@127.0.0.1', "operation 6, whose payload is no term", wire:whole([], {6, self(), '', echo}, <<255>>)},
     {'deep@127.0.0.1', "operation 6, whose payload is no term.*deep",
      wire:whole([], {6, self(), '', echo}, [binary:copy(<<104, 1>>, 20000), 106])},
     {'control@127.0.0.1', "control message that is no term", <<131, 68, 0, 255>>},
     {'unknown@127.0.0.1', "operation 99", wire:whole([], {99}, <<>>)},
     {'empty@127.0.0.1', "operation 6 without its payload", wire:whole([], {6, self(), '', echo}, <<>>)},
     {'kind@127.0.0.1', "begins with 112", <<112, 131, 97, 1>>}]).

%% The connection may end over it, and then another takes its place; its name is the greater one, so it is never told to
%% wait for the last attempt.
a_thousand_random_frames_do_no_harm(Config) ->
    Seed = rand:seed(exsss),
    ct:log("seed: ~p", [rand:export_seed_s(Seed)]),
    Connect = fun() -> connect(Config, 'zebra@127.0.0.1', [cache, fragments, altact]) end,
    Last = lists:foldl(fun(_, Wire) ->
        case wire:send(Wire, random_frame(Wire)) of
            ok -> Wire;
            {error, _} -> wire:close(Wire), Connect()
        end
    end, Connect(), lists:seq(1, 1000)),
    wire:close(Last),
    Wire = Connect(),
    ?assert(wire:alive(Wire)),
    echoed(Wire, {after_it, all}),
    wire:close(Wire),
    ?assertEqual(0, rust:said(?config(rust, Config), "panicked")).

random_frame(Wire) ->
    Pid = wire:pid(Wire),
    Name = lists:nth(rand:uniform(4), [echo, redgrid, rex, net_kernel]),
    Control = {rand:uniform(40), Pid, '', Name},
    Entries = [{new, rand:uniform(2048) - 1, Entry} || Entry <- lists:sublist([Name, 'zebra@127.0.0.1', ref], rand:uniform(4) - 1)],
    Names = [Entry || {new, _, Entry} <- Entries],
    Payload = wire:cached({'$gen_call', {Pid, make_ref()}, [{ref, "text", #{Name => 1.5}}]}, Names),
    Frame = case rand:uniform(3) of
                1 -> wire:whole(Entries, Control, Payload);
                2 -> wire:first(rand:uniform(3), rand:uniform(3), Entries, Control, Payload);
                3 -> wire:next(rand:uniform(3), rand:uniform(3), Payload)
            end,
    broken(iolist_to_binary(Frame)).

%% One byte of it is another, or its end is missing, or it is whole.
broken(Bytes) ->
    At = rand:uniform(byte_size(Bytes)) - 1,
    <<Before:At/binary, _, After/binary>> = Bytes,
    case rand:uniform(3) of
        1 -> [Before, rand:uniform(256) - 1, After];
        2 -> Before;
        3 -> Bytes
    end.
