%% The frames between two nodes as bytes, which a node made by hand (`wire.erl`) reads and writes: the header with its
%% atom cache, fragments, and the operations for aliases. Whatever was agreed upon, messages arrive as they were sent.
-module(frame_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-import(by_hand, [agreements/0, with_fragments/0, connect/2, connect/3, to_echo/1, ask/3, answer/1, echoed/2]).

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
         operation_37_ends_a_process/1]).

-define(TOKEN, {0, label, 1, hd(processes()), 0}).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) -> by_hand:init_per_suite(Config).

end_per_suite(_) -> grid:stop_since([]).

init_per_testcase(_, Config) -> by_hand:init_per_testcase(Config).

end_per_testcase(_, Config) -> by_hand:end_per_testcase(Config).

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
