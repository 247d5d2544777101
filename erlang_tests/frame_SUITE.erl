%% The frames between two nodes as bytes, which a node made by hand (`wire.erl`) reads and writes: the header with its
%% atom cache, fragments, and the operations for aliases. Whatever was agreed upon, messages arrive as they were sent;
%% what breaks the header or the order of fragments ends its connection, what breaks one message costs that one.
-module(frame_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([every_agreement_is_kept_by_both_sides/1,
         the_node_that_is_dialled_may_agree_to_anything_too/1,
         an_atom_is_sent_once_and_then_as_its_entry/1,
         an_entry_that_was_filled_is_known_in_later_messages/1,
         every_slot_can_be_filled/1,
         a_slot_that_is_filled_anew_means_the_new_atom/1,
         a_slot_that_we_fill_anew_means_the_new_atom/1,
         atoms_beyond_255_are_written_out/1,
         atoms_of_any_length_are_entries/1,
         pids_references_funs_and_ports_have_entries_too/1,
         a_large_message_is_sent_in_fragments/1,
         small_messages_pass_large_ones_by/1,
         large_messages_come_side_by_side/1,
         a_message_may_be_cut_anywhere/1,
         fragments_of_many_messages_may_come_interleaved/1,
         a_number_can_be_used_again/1,
         the_atoms_of_a_message_are_those_of_its_first_fragment/1,
         a_message_to_an_alias_has_the_operation_that_was_agreed_upon/1,
         both_operations_for_an_alias_are_understood/1,
         operation_37_reaches_names_and_pids/1,
         operation_37_ends_a_process/1,
         a_broken_header_ends_its_connection/1,
         atoms_that_were_not_agreed_upon_end_the_connection/1,
         fragments_out_of_order_end_their_connection/1,
         a_fragmented_message_that_is_too_long_ends_its_connection/1,
         too_many_incomplete_messages_end_their_connection/1,
         a_payload_that_is_no_term_costs_one_message/1,
         a_control_message_that_is_none_costs_one_message/1,
         a_frame_that_was_not_agreed_upon_costs_one_message/1,
         what_is_refused_is_told_and_counted/1,
         a_thousand_random_frames_do_no_harm/1]).

-define(TOKEN, {0, label, 1, hd(processes()), 0}).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) ->
    Rust = rust:start(rust, #{args => ["--echo", "--log-level", "debug"]}),
    [{rust, Rust}, {beam, grid:peer(beam)} | Config].

end_per_suite(_) -> grid:stop_since([]).

%% Whatever a case sends: in the end the same connection to the Erlang node stands that stood before.
init_per_testcase(_, Config) ->
    [{running, grid:running()}, {connection, connection(Config)} | Config].

end_per_testcase(_, Config) ->
    grid:stop_since(?config(running, Config)),
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

connect(Config, Options) -> connect(Config, 'raw@127.0.0.1', Options).

connect(Config, Name, Options) ->
    #{port := Port} = ?config(rust, Config),
    {ok, Wire} = wire:connect(Port, Name, erlang:get_cookie(), wire:flags(Options)),
    Wire.

%% ---------------------------------------------------------------- to ask and be answered

agreements() -> [[], [cache], [fragments], [cache, fragments], [cache, fragments, altact]].

with_headers() -> [Agreed || Agreed <- agreements(), Agreed =/= []].

with_fragments() -> [Agreed || Agreed <- with_headers(), lists:member(fragments, Agreed)].

to_echo(Wire) -> {6, wire:pid(Wire), '', echo}.

%% Asks without waiting.
ask(Wire, Ref, Term) -> ok = wire:frame(Wire, to_echo(Wire), {wire:pid(Wire), Ref, Term}).

answer(Wire) ->
    Pid = wire:pid(Wire),
    case wire:receive_frame(Wire, 20000) of
        {{2, '', Pid}, Answer} -> Answer;
        Other -> error({no_answer, Other})
    end.

%% One answer, and the frames that it came in.
answer_in_parts(Wire) ->
    case wire:receive_part(Wire, 20000) of
        #{kind := first, number := Number} = First -> [First | rest_of_answer(Wire, Number)];
        #{kind := _} = Part -> [Part]
    end.

rest_of_answer(_, 1) -> [];
rest_of_answer(Wire, Number) ->
    Expected = Number - 1,
    #{kind := next, number := Expected} = Next = wire:receive_part(Wire, 20000),
    [Next | rest_of_answer(Wire, Expected)].

%% The term comes back as it was sent.
echoed(Wire, Term) ->
    Ref = make_ref(),
    ask(Wire, Ref, Term),
    ?assertEqual({Ref, Term}, answer(Wire)).

terms() ->
    [a, 'Größe', [], "text", [-1, 300 | tail], {x, {y, [z, z, x]}}, #{k => v, 1 => [1.5]}, <<"binary">>, <<5:3>>, 1 bsl 70,
     self(), make_ref(), fun lists:map/2, binary:copy(<<"x">>, 100000), lists:duplicate(30000, {some, atoms, "here"})].

%% ---------------------------------------------------------------- what was agreed upon

every_agreement_is_kept_by_both_sides(Config) ->
    lists:foreach(fun(Agreed) ->
        Wire = connect(Config, Agreed),
        ?assertEqual(Agreed, maps:get(agreed, Wire)),
        kept(Wire),
        wire:close(Wire)
    end, agreements()).

the_node_that_is_dialled_may_agree_to_anything_too(Config) ->
    lists:foreach(fun({Agreed, Number}) ->
        Name = list_to_atom("dialled" ++ integer_to_list(Number) ++ "@127.0.0.1"),
        {Wire, _Asking} = dialled(Config, Name, Agreed),
        ?assertEqual(Agreed, maps:get(agreed, Wire)),
        {{19, _, _, _}} = wire:receive_frame(Wire, 5000),
        {{2, '', _}, {'$gen_call', _, nodes}} = wire:receive_frame(Wire, 5000),
        kept(Wire),
        wire:close(Wire)
    end, lists:zip(agreements(), lists:seq(1, length(agreements())))).

%% A function there that asks a process of ours makes the Rust node dial. Gives the connection, and a process that gives
%% what the function returned.
dialled(Config, Name, Agreed) ->
    #{node := Rust} = ?config(rust, Config),
    Beam = ?config(beam, Config),
    Listening = wire:listen(Name),
    Pid = wire:pid(#{node => Name, creation => 1}),
    {Asking, _} = spawn_monitor(fun() -> exit({value, grid:call(Beam, rpc, call, [Rust, redgrid, nodes, [Pid]])}) end),
    {ok, Wire} = wire:accept(Listening, erlang:get_cookie(), wire:flags(Agreed)),
    {Wire, Asking}.

%% What comes is of the kinds that were agreed upon, and says what was sent.
kept(#{agreed := Agreed} = Wire) ->
    Small = case Agreed -- [altact] of [] -> pass_through; _ -> whole end,
    Large = case lists:member(fragments, Agreed) of true -> first; false -> Small end,
    [echoed(Wire, Term) || Term <- terms()],
    ask(Wire, ref, {a, small, term}),
    [#{kind := SmallKind} = Part] = answer_in_parts(Wire),
    ?assertEqual(Small, SmallKind),
    ?assertEqual(lists:member(cache, Agreed), maps:get(entries, Part, []) =/= []),
    ask(Wire, ref, {a, large, binary:copy(<<"x">>, 300000)}),
    [#{kind := LargeKind} | Rest] = answer_in_parts(Wire),
    ?assertEqual(Large, LargeKind),
    ?assertEqual(Large =:= first, Rest =/= []),
    ?assert(wire:alive(Wire)).

%% ---------------------------------------------------------------- the atom cache

an_atom_is_sent_once_and_then_as_its_entry(Config) ->
    Wire = connect(Config, [cache, fragments]),
    Entries = fun() ->
                      ask(Wire, ref, {'an atom', [another, 'an atom']}),
                      [#{entries := List, payload := Payload}] = answer_in_parts(Wire),
                      ?assertEqual(nomatch, binary:match(Payload, [<<"an atom">>, <<"another">>])),
                      [Entry || {_, _, Name} = Entry <- List, lists:member(Name, [<<"an atom">>, <<"another">>])]
              end,
    First = Entries(),
    ?assertMatch([{new, _, _}, {new, _, _}], First),
    Old = [{old, Slot, Name} || {new, Slot, Name} <- First],
    [?assertEqual(Old, Entries()) || _ <- lists:seq(1, 3)],
    %% It is a matter of each connection.
    Other = connect(Config, 'other@127.0.0.1', [cache, fragments]),
    ask(Other, ref, {'an atom', another}),
    [#{entries := New}] = answer_in_parts(Other),
    ?assertEqual([new], lists:usort([Kind || {Kind, _, _} <- New])),
    [wire:close(W) || W <- [Wire, Other]].

%% Asks echo with a header of ours.
with_entries(Wire, Entries, Names, Term) ->
    Payload = wire:cached({wire:pid(Wire), ref, Term}, Names),
    ok = wire:send(Wire, wire:whole(Entries, Names, to_echo(Wire), Payload)),
    {ref, Back} = answer(Wire),
    Back.

an_entry_that_was_filled_is_known_in_later_messages(Config) ->
    Wire = connect(Config, [cache]),
    Names = ['raw@127.0.0.1', echo, ref, foo, bar],
    Term = {foo, [bar, foo], #{foo => bar}},
    New = lists:zipwith(fun(Slot, Name) -> {new, Slot, Name} end, [0, 1, 255, 256, 2047], Names),
    Old = [{old, Slot} || {new, Slot, _} <- New],
    ?assertEqual(Term, with_entries(Wire, New, Names, Term)),
    [?assertEqual(Term, with_entries(Wire, Old, Names, Term)) || _ <- lists:seq(1, 3)],
    %% In another order, some of them, some anew.
    ?assertEqual(Term, with_entries(Wire, lists:reverse(Old), lists:reverse(Names), Term)),
    ?assertEqual(Term, with_entries(Wire, [lists:last(Old)], [bar], Term)),
    ?assertEqual(Term, with_entries(Wire, [{new, 3, foo}, {old, 2047}], [foo, bar], Term)),
    %% Twice in one header, and one that no term has.
    ?assertEqual(Term, with_entries(Wire, [{old, 3}, {old, 2047}, {old, 255}, {old, 0}], [foo, bar, <<>>, <<>>], Term)),
    wire:close(Wire).

every_slot_can_be_filled(Config) ->
    Wire = connect(Config, [cache]),
    Slots = lists:seq(0, 2047),
    Name = fun(Slot) -> list_to_atom("slot" ++ integer_to_list(Slot)) end,
    in_hundreds(fun(Some) ->
                        Names = [Name(Slot) || Slot <- Some],
                        ?assertEqual(Names, with_entries(Wire, [{new, S, Name(S)} || S <- Some], Names, Names))
                end, Slots),
    in_hundreds(fun(Some) ->
                        Names = [Name(Slot) || Slot <- Some],
                        ?assertEqual(Names, with_entries(Wire, [{old, S} || S <- Some], Names, Names))
                end, lists:reverse(Slots)),
    wire:close(Wire).

in_hundreds(_, []) -> ok;
in_hundreds(Fun, List) ->
    {Some, Rest} = lists:split(min(100, length(List)), List),
    Fun(Some),
    in_hundreds(Fun, Rest).

a_slot_that_is_filled_anew_means_the_new_atom(Config) ->
    Wire = connect(Config, [cache]),
    Says = fun(Entries) -> with_entries(Wire, Entries, [<<"the entry">>], 'the entry') end,
    ?assertEqual(one, Says([{new, 9, one}])),
    %% Headers of the same bytes, before and after.
    ?assertEqual([one, one], [Says([{old, 9}]) || _ <- "12"]),
    ?assertEqual(two, Says([{new, 9, two}])),
    ?assertEqual([two, two], [Says([{old, 9}]) || _ <- "12"]),
    ?assertEqual(three, Says([{new, 9 + 256, three}])),
    ?assertEqual([two, three], [Says([{old, 9}]), Says([{old, 9 + 256}])]),
    %% The last word in one header counts from then on.
    ?assertEqual(four, Says([{new, 9, four}, {new, 9, five}])),
    ?assertEqual(five, Says([{old, 9}])),
    wire:close(Wire).

a_slot_that_we_fill_anew_means_the_new_atom(Config) ->
    Wire = connect(Config, [cache, fragments]),
    %% The hand that reads knows of each slot only what it was told last.
    Hundreds = [[list_to_atom("atom" ++ integer_to_list(100 * Hundred + N)) || N <- lists:seq(1, 100)]
                || Hundred <- lists:seq(1, 30)],
    [echoed(Wire, Atoms) || _ <- [once, twice], Atoms <- Hundreds],
    Told = lists:append([begin
                             ask(Wire, ref, Atoms),
                             [#{entries := Entries}] = answer_in_parts(Wire),
                             [Entry || {new, _, _} = Entry <- Entries]
                         end || Atoms <- Hundreds]),
    %% There are more atoms than slots: some had to be told anew, and nothing is told twice in a row for ever.
    ?assert(length(Told) > 0),
    [echoed(Wire, {again, hd(Atoms)}) || Atoms <- lists:reverse(Hundreds)],
    wire:close(Wire).

atoms_beyond_255_are_written_out(Config) ->
    Wire = connect(Config, [cache, fragments]),
    Atoms = [list_to_atom("many" ++ integer_to_list(N)) || N <- lists:seq(1, 600)],
    lists:foreach(fun(Term) ->
        echoed(Wire, Term),
        ask(Wire, ref, Term),
        [#{entries := Entries, payload := Payload}] = answer_in_parts(Wire),
        ?assert(length(Entries) > 100 andalso length(Entries) =< 255),
        Written = [Atom || Atom <- Atoms, binary:match(Payload, <<119, (atom_to_binary(Atom))/binary>>) =:= nomatch],
        ?assert(length(Written) > 100)
    end, [Atoms, list_to_tuple(Atoms), maps:from_list([{A, A} || A <- Atoms])]),
    %% From us: 255 entries, and the others without.
    Names = lists:sublist(Atoms, 255),
    New = lists:zipwith(fun(Slot, Name) -> {new, Slot, Name} end, lists:seq(1000, 1254), Names),
    ?assertEqual(Atoms, with_entries(Wire, New, Names, Atoms)),
    ?assertEqual(Atoms, with_entries(Wire, [{old, Slot} || {new, Slot, _} <- New], Names, Atoms)),
    wire:close(Wire).

%% An odd and an even number of entries: the bit for long names moves.
atoms_of_any_length_are_entries(Config) ->
    Wire = connect(Config, [cache, fragments]),
    Long = list_to_atom(lists:duplicate(255, 16#1F600)),
    Medium = list_to_atom(lists:duplicate(128, $ß)),
    Full = list_to_atom(lists:duplicate(255, $x)),
    Names = [Long, short, Medium, Full, ''],
    lists:foreach(fun(Length) ->
        Some = lists:sublist(Names, Length),
        New = lists:zipwith(fun(Slot, Name) -> {new, Slot, Name} end, lists:seq(10, 9 + Length), Some),
        ?assertEqual(Some, with_entries(Wire, New, Some, Some)),
        ?assertEqual(Some, with_entries(Wire, [{old, Slot} || {new, Slot, _} <- New], Some, Some))
    end, lists:seq(1, length(Names))),
    %% From the Rust node: once as new, once as old.
    Others = [list_to_atom([Char | lists:duplicate(254, 16#1F600)]) || Char <- "abcdefg"],
    lists:foreach(fun(Some) -> echoed(Wire, Some), echoed(Wire, Some) end,
                  [[Medium], [Medium, Full], [hd(Others)], Others, [short | Others], [a, b, Medium | Others]]),
    wire:close(Wire).

pids_references_funs_and_ports_have_entries_too(Config) ->
    Wire = connect(Config, [cache]),
    X = make_ref(),
    Names = [node(), ?MODULE, lists, map, 'raw@127.0.0.1'],
    New = lists:zipwith(fun(Slot, Name) -> {new, Slot, Name} end, lists:seq(1, length(Names)), Names),
    Terms = [self(), X, hd(erlang:ports()), fun lists:map/2, fun(Y) -> {X, Y, self()} end, wire:pid(Wire), #{self() => X}],
    [begin
         ?assertEqual(Term, with_entries(Wire, New, Names, Term)),
         ?assertEqual(Term, with_entries(Wire, [{old, Slot} || {new, Slot, _} <- New], Names, Term))
     end || Term <- [Terms | Terms]],
    Fun = lists:nth(5, with_entries(Wire, New, Names, Terms)),
    ?assertEqual({X, 1, self()}, Fun(1)),
    wire:close(Wire).

%% ---------------------------------------------------------------- fragments

a_large_message_is_sent_in_fragments(Config) ->
    lists:foreach(fun(Agreed) ->
        Wire = connect(Config, Agreed),
        lists:foreach(fun(Size) ->
            Binary = binary:copy(<<"0123456789abcdef">>, Size div 16),
            ask(Wire, ref, {Binary, atom}),
            Parts = [#{sequence := Sequence, number := Count} | _] = answer_in_parts(Wire),
            ?assert(Count >= Size div 65536),
            ?assertEqual([Sequence], lists:usort([S || #{sequence := S} <- Parts])),
            ?assertEqual(lists:seq(Count, 1, -1), [Number || #{number := Number} <- Parts]),
            [?assert(byte_size(Payload) =< 65536) || #{payload := Payload} <- Parts],
            echoed(Wire, {Binary, atom})
        end, [131072, 300000, 5000000]),
        wire:close(Wire)
    end, with_fragments()).

%% 48 MiB are more than the system keeps between the two: what is asked behind them is answered before their end.
small_messages_pass_large_ones_by(Config) ->
    Wire = connect(Config, [cache, fragments]),
    ok = wire:narrow(Wire),
    Size = 48 * 1024 * 1024,
    [One, Two, Small] = [wire:pid(Wire, Id) || Id <- [101, 102, 103]],
    Send = fun(Pid, Term) -> ok = wire:frame(Wire, to_echo(Wire), {Pid, ref, Term}) end,
    Send(One, binary:copy(<<1>>, Size)),
    Send(Two, binary:copy(<<2>>, Size)),
    Send(Small, {small, message}),
    Send(One, behind_the_large_one),
    Answers = [wire:receive_frame(Wire, 30000) || _ <- lists:seq(1, 4)],
    Order = [{Pid, case Term of Binary when is_binary(Binary) -> {binary:first(Binary), byte_size(Binary)}; _ -> Term end}
             || {{2, '', Pid}, {ref, Term}} <- Answers],
    %% They are told when they are complete.
    ?assertEqual({Small, {small, message}}, hd(Order)),
    ?assertEqual([{One, {1, Size}}, {One, behind_the_large_one}], [{P, T} || {P, T} <- Order, P =:= One]),
    ?assertEqual([{Two, {2, Size}}], [{P, T} || {P, T} <- Order, P =:= Two]),
    wire:close(Wire).

%% Four at once: when the first of them is complete, more than half of each of the others has come.
large_messages_come_side_by_side(Config) ->
    Wire = connect(Config, [cache, fragments]),
    ok = wire:narrow(Wire),
    Binary = binary:copy(<<"x">>, 24 * 1024 * 1024),
    [ok = wire:frame(Wire, to_echo(Wire), {wire:pid(Wire, Id), ref, Binary}) || Id <- [1, 2, 3, 4]],
    Left = left_when_one_is_complete(Wire, #{}),
    ?assertMatch([0, _, _, _], lists:sort(maps:values(Left))),
    ?assertEqual([], [Fragments || Fragments <- maps:values(Left), Fragments > 384 div 2]),
    wire:close(Wire).

%% How many fragments of each are still to come.
left_when_one_is_complete(Wire, Left) ->
    #{sequence := Sequence, number := Number} = wire:receive_part(Wire, 30000),
    Now = Left#{Sequence => Number - 1},
    case Number of
        1 -> Now;
        _ -> left_when_one_is_complete(Wire, Now)
    end.

%% Its answer is the message that was cut.
a_message_may_be_cut_anywhere(Config) ->
    lists:foreach(fun(Agreed) ->
        Wire = connect(Config, Agreed),
        Names = case lists:member(cache, Agreed) of true -> ['raw@127.0.0.1', ref, foo]; false -> [] end,
        Entries = lists:zipwith(fun(Slot, Name) -> {new, Slot, Name} end, lists:seq(1, length(Names)), Names),
        Term = {foo, "text", [<<"binary">>, 1.5, 'an atom'], fun(X) -> {X, Wire} end},
        Payload = wire:cached({wire:pid(Wire), ref, Term}, Names),
        Size = byte_size(Payload),
        Sent = fun(Parts) ->
                       Count = length(Parts),
                       ok = wire:send(Wire, wire:first(5, Count, Entries, Names, to_echo(Wire), hd(Parts))),
                       [ok = wire:send(Wire, wire:next(5, Number, Part))
                        || {Number, Part} <- lists:zip(lists:seq(Count - 1, 1, -1), tl(Parts))],
                       ?assertEqual({ref, Term}, answer(Wire))
               end,
        Sent([Payload]),
        [begin
             <<Before:At/binary, After/binary>> = Payload,
             Sent([Before, After]),
             Sent([<<>>, Before, <<>>, After, <<>>])
         end || At <- lists:seq(0, Size)],
        Sent([<<Byte>> || <<Byte>> <= Payload]),
        ?assert(wire:alive(Wire)),
        wire:close(Wire)
    end, with_fragments()).

fragments_of_many_messages_may_come_interleaved(Config) ->
    Seed = rand:seed(exsss),
    ct:log("seed: ~p", [rand:export_seed_s(Seed)]),
    Wire = connect(Config, [cache, fragments]),
    Sequences = [0, 1, 2, 1 bsl 32, (1 bsl 64) - 1 | lists:seq(100, 130)],
    Messages = [begin
                    Term = {N, rand:bytes(rand:uniform(20000))},
                    Name = list_to_atom("name" ++ integer_to_list(N rem 7)),
                    Payload = wire:cached({wire:pid(Wire), Name, Term}, [Name]),
                    [First | Rest] = pieces(Payload),
                    Count = length(Rest) + 1,
                    Frames = [wire:first(N, Count, [{new, N rem 3, Name}], to_echo(Wire), First)
                              | [wire:next(N, Number, Piece)
                                 || {Number, Piece} <- lists:zip(lists:seq(Count - 1, 1, -1), Rest)]],
                    {{Name, Term}, Frames}
                end || N <- Sequences],
    Whole = [{{N, whole}, [wire:whole([{new, 1, other}], to_echo(Wire), wire:cached({wire:pid(Wire), N, whole}, []))]}
             || N <- lists:seq(1, 20)],
    shuffled(Wire, [Frames || {_, Frames} <- Messages ++ Whole]),
    Expected = [Answer || {Answer, _} <- Messages ++ Whole],
    ?assertEqual(lists:sort(Expected), lists:sort([answer(Wire) || _ <- Expected])),
    wire:close(Wire).

pieces(<<>>) -> [];
pieces(Bytes) ->
    Length = min(byte_size(Bytes), rand:uniform(4000)),
    <<Piece:Length/binary, Rest/binary>> = Bytes,
    [Piece | pieces(Rest)].

%% One frame of any message, and so on.
shuffled(_, []) -> ok;
shuffled(Wire, Messages) ->
    {Before, [[Frame | Rest] | After]} = lists:split(rand:uniform(length(Messages)) - 1, Messages),
    ok = wire:send(Wire, Frame),
    shuffled(Wire, Before ++ [Rest || Rest =/= []] ++ After).

%% Erlang takes the pid of the sender for a number, so each is used again and again.
a_number_can_be_used_again(Config) ->
    Wire = connect(Config, [fragments]),
    lists:foreach(fun(N) ->
        <<Half:10/binary, Rest/binary>> = wire:cached({wire:pid(Wire), N, "text"}, []),
        ok = wire:send(Wire, wire:first(7, 2, [], to_echo(Wire), Half)),
        ok = wire:send(Wire, wire:next(7, 1, Rest)),
        ?assertEqual({N, "text"}, answer(Wire))
    end, lists:seq(1, 100)),
    wire:close(Wire).

the_atoms_of_a_message_are_those_of_its_first_fragment(Config) ->
    Wire = connect(Config, [cache, fragments]),
    Payload = wire:cached({wire:pid(Wire), ref, {first, [first]}}, [first]),
    <<Half:12/binary, Rest/binary>> = Payload,
    ok = wire:send(Wire, wire:first(7, 2, [{new, 3, first}], to_echo(Wire), Half)),
    %% The slot gets another atom before the rest has come.
    ?assertEqual({second}, with_entries(Wire, [{new, 3, second}], [second], {second})),
    ok = wire:send(Wire, wire:next(7, 1, Rest)),
    ?assertEqual({ref, {first, [first]}}, answer(Wire)),
    ?assertEqual(second, with_entries(Wire, [{old, 3}], [<<"entry">>], entry)),
    wire:close(Wire).

%% ---------------------------------------------------------------- aliases, operations 33 and 37

a_message_to_an_alias_has_the_operation_that_was_agreed_upon(Config) ->
    lists:foreach(fun(Options) ->
        Wire = connect(Config, Options),
        Pid = wire:pid(Wire),
        Alias = reference(Wire, 1),
        Tag = [alias | Alias],
        ok = wire:frame(Wire, to_echo(Wire), {'$gen_call', {Pid, Tag}, hello}),
        {Control, {[alias | Alias], hello}} = wire:receive_frame(Wire, 5000),
        case lists:member(altact, Options) of
            true -> ?assertMatch({37, 4, _, Alias}, Control);
            false -> ?assertMatch({33, _, Alias}, Control)
        end,
        %% The sender is the process that was asked.
        From = element(tuple_size(Control) - 1, Control),
        ok = wire:frame(Wire, {2, '', From}, {Pid, ref, by_its_pid}),
        ?assertEqual({ref, by_its_pid}, answer(Wire)),
        wire:close(Wire)
    end, agreements() ++ [[altact], [altact, cache]]).

%% A reference of ours, of five words as OTP 27's aliases are.
reference(#{node := Node, creation := Creation}, Id) ->
    Name = atom_to_binary(Node),
    binary_to_term(<<131, 90, 5:16, 119, (byte_size(Name)), Name/binary, Creation:32, Id:32, 2:32, 3:32, 4:32, 5:32>>).

%% A function there calls a process of ours as a gen_server, so it waits for an answer to its alias.
both_operations_for_an_alias_are_understood(Config) ->
    lists:foreach(fun(Options) ->
        Wire = connect(Config, Options),
        Pid = wire:pid(Wire),
        lists:foreach(fun(Control) ->
            {Id, Caller, Tag} = called(Wire, execute_call),
            [alias | Alias] = Tag,
            ok = wire:frame(Wire, Control(Caller, Alias), {Tag, the_answer}),
            ?assertMatch({{28, _, Pid, Id}, {Id, return, the_answer}}, after_demonitor(Wire))
        end,
        [fun(_, Alias) -> {33, Pid, Alias} end,
         fun(_, Alias) -> {34, Pid, Alias, ?TOKEN} end,
         fun(_, Alias) -> {37, 4, Pid, Alias} end,
         fun(_, Alias) -> {37, 4 bor 1, Pid, Alias} end,
         fun(_, Alias) -> {37, 4 bor 2, Pid, Alias, ?TOKEN} end,
         fun(_, Alias) -> {37, 4 bor 2 bor 1, Pid, Alias, ?TOKEN} end,
         fun(Caller, _) -> {2, '', Caller} end,
         fun(Caller, _) -> {12, '', Caller, ?TOKEN} end,
         fun(Caller, _) -> {22, Pid, Caller} end,
         fun(Caller, _) -> {23, Pid, Caller, ?TOKEN} end,
         fun(Caller, _) -> {37, 0, Pid, Caller} end]),
        wire:close(Wire)
    end, [[], [altact], [cache, fragments], [cache, fragments, altact]]).

%% A process there that waits for a process of ours to answer: the id of its spawn request, and whom to answer.
called(Wire, Function) ->
    Pid = wire:pid(Wire),
    Id = reference(Wire, erlang:unique_integer([positive])),
    {Mfa, Args} = case Function of
                      execute_call -> {{erpc, execute_call, 4}, [Id, redgrid, nodes, [Pid]]};
                      process -> {{redgrid, nodes, 1}, [Pid]}
                  end,
    ok = wire:frame(Wire, {29, Id, Pid, Pid, Mfa, [monitor]}, Args),
    {{31, Id, Pid, 2, Spawned}} = after_demonitor(Wire),
    {{19, Caller, Pid, _}} = after_demonitor(Wire),
    {{2, '', Pid}, {'$gen_call', {Caller, Tag}, nodes}} = after_demonitor(Wire),
    case Function of
        execute_call -> {Id, Caller, Tag};
        process -> {Id, Spawned, Tag}
    end.

%% Whoever called a process of ours and waits no more takes its monitor back.
after_demonitor(Wire) ->
    case wire:receive_frame(Wire, 5000) of
        {{20, _, _, _}} -> after_demonitor(Wire);
        Other -> Other
    end.

operation_37_reaches_names_and_pids(Config) ->
    lists:foreach(fun(Options) ->
        Wire = connect(Config, Options),
        Pid = wire:pid(Wire),
        Echo = grid:call(?config(beam, Config), rpc, call, [maps:get(node, ?config(rust, Config)), erlang, whereis, [echo]]),
        lists:foreach(fun(Control) ->
            ok = wire:frame(Wire, Control, {Pid, Control, payload}),
            ?assertEqual({Control, payload}, answer(Wire))
        end,
        [{37, 8, Pid, echo}, {37, 8 bor 1, Pid, echo}, {37, 8 bor 2, Pid, echo, ?TOKEN},
         {37, 0, Pid, Echo}, {37, 1, Pid, Echo}, {37, 2, Pid, Echo, ?TOKEN}, {37, 3, Pid, Echo, ?TOKEN},
         {16, Pid, '', echo, ?TOKEN}, {12, '', Echo, ?TOKEN}, {22, Pid, Echo}, {23, Pid, Echo, ?TOKEN}]),
        %% To nobody.
        [ok = wire:frame(Wire, Control, {Pid, nobody, payload})
         || Control <- [{37, 8, Pid, nobody_has_this_name}, {37, 0, Pid, Pid}, {37, 4, Pid, make_ref()}, {33, Pid, make_ref()},
                        {37, 8, Pid, "no name"}, {37, 16, Pid, Echo}, {37, 16 bor 4, Pid, make_ref()}]],
        ?assert(wire:alive(Wire)),
        echoed(Wire, still_there),
        wire:close(Wire)
    end, [[], [altact], [cache, fragments], [cache, fragments, altact]]).

operation_37_ends_a_process(Config) ->
    Reason = {shutdown, binary:copy(<<"why">>, 50000)},
    lists:foreach(fun(Options) ->
        Wire = connect(Config, Options),
        Pid = wire:pid(Wire),
        lists:foreach(fun(Control) ->
            {Id, Spawned, _} = called(Wire, process),
            case Control(Spawned) of
                {Op, _, _} = Old when Op =:= 8 -> ok = wire:frame(Wire, erlang:append_element(Old, Reason));
                {Op, _, _, Token} when Op =:= 18 -> ok = wire:frame(Wire, {Op, Pid, Spawned, Token, Reason});
                New -> ok = wire:frame(Wire, New, Reason)
            end,
            ?assertEqual({{28, Spawned, Pid, Id}, Reason}, after_demonitor(Wire))
        end,
        [fun(Spawned) -> {37, 16, Pid, Spawned} end,
         fun(Spawned) -> {37, 16 bor 1, Pid, Spawned} end,
         fun(Spawned) -> {37, 16 bor 2, Pid, Spawned, ?TOKEN} end,
         fun(Spawned) -> {26, Pid, Spawned} end,
         fun(Spawned) -> {27, Pid, Spawned, ?TOKEN} end,
         fun(Spawned) -> {8, Pid, Spawned} end,
         fun(Spawned) -> {18, Pid, Spawned, ?TOKEN} end]),
        wire:close(Wire)
    end, [[], [cache, fragments, altact]]).

%% ---------------------------------------------------------------- what ends the connection

%% After these frames the connection ends, with a line that says why. `Name` is of this case alone.
ends(Config, Name, Options, Why, Frames) ->
    Wire = connect(Config, Name, Options),
    ?assert(wire:alive(Wire)),
    %% It may be over before all is sent.
    _ = [wire:send(Wire, Frame) || Frame <- Frames],
    ?assertEqual({Name, true}, {Name, wire:closed(Wire, 5000)}),
    wire:close(Wire),
    rust:saying(?config(rust, Config), ["disconnected.*", atom_to_list(Name), ".*broke the protocol.*", Why]).

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
    ends(Here, named("long", 3), [fragments], "more than 524288 bytes of incomplete messages",
         lists:append([Long(Sequence, 10, 2) || Sequence <- lists:seq(1, 10)])),
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
