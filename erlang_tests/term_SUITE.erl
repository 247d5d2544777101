%% Terms come back from a Rust node as they were sent: by `gen_server:call`, by `rpc:call`, and as a bare message.
-module(term_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, echoed/2, wrapped/2]).
-export([integers/1,
         lists_with_negative_integers/1,
         lists_of_bytes/1,
         improper_lists/1,
         floats/1,
         minus_zero/1,
         atoms/1,
         binaries_and_bitstrings/1,
         tuples/1,
         maps_with_any_keys/1,
         pids_ports_and_references/1,
         aliases/1,
         external_and_local_funs/1,
         native_records/1,
         terms_of_another_node/1,
         pids_ports_and_references_of_every_width/1,
         both_atom_encodings/1,
         compressed_terms_inside_of_binaries/1,
         exit_reasons_of_two_mebibytes/1,
         terms_nested_five_thousand_deep/1,
         a_term_that_is_nested_too_deep_costs_only_itself/1,
         a_binary_of_a_mebibyte/1,
         a_binary_of_32_mebibytes/1,
         a_hundred_thousand_elements/1,
         random_terms/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) ->
    #{node := Rust, port := Port} = rust:start(rust, #{args => ["--echo"]}),
    [{rust, Rust}, {port, Port}, {beam, grid:peer(beam)} | Config].

end_per_suite(_) -> grid:stop_since([]).

%% ---------------------------------------------------------------- the terms

integers(Config) ->
    Edges = [1 bsl N || N <- [7, 8, 15, 16, 27, 28, 31, 32, 59, 60, 63, 64, 127, 128, 2039, 2040, 2048, 16384]],
    same(Config, lists:append([[N - 1, N, N + 1, -N - 1, -N, -N + 1] || N <- [0 | Edges]])).

lists_with_negative_integers(Config) ->
    same(Config, [[-1, 2], [2, -1], [0, -128], [255, 256], [-1], [1, 2, -3, 300], lists:seq(-300, 300)]).

lists_of_bytes(Config) ->
    same(Config, ["", "a", "hello", [0], [255], lists:seq(0, 255), lists:duplicate(65535, $x), lists:duplicate(65536, $x),
                  lists:duplicate(100000, 7), [["nested"], "strings" | "tail"]]).

improper_lists(Config) ->
    same(Config, [[a | b], [1 | 2], [1, 2, 3 | four], ["x" | <<"y">>], [[] | []], [[a | b] | [c | d]]]).

floats(Config) ->
    same(Config, [0.0, 1.5, -1.5, 0.1, 1.0e308, -1.0e308, 5.0e-324, 1.7976931348623157e308, 2.2250738585072014e-308,
                  1.0e22]).

%% `=:=` tells 0.0 from -0.0 from OTP 27 on only, so the bits are compared.
minus_zero(Config) ->
    lists:foreach(fun(Call) ->
                          ?assertEqual([<<128, 0:56>>, <<0:64>>], [<<F/float>> || F <- echo(Config, Call, [-0.0, 0.0])])
                  end, calls()).

atoms(Config) ->
    same(Config, [a, '', 'with space', 'Größe', '日本', nil, true, undefined,
                  list_to_atom(lists:duplicate(255, $x)), list_to_atom(lists:duplicate(255, 16#1F600))]).

binaries_and_bitstrings(Config) ->
    same(Config, [<<>>, <<0>>, <<"text">>, <<"ü"/utf8>>, <<1:1>>, <<0:1>>, <<5:3>>, <<255, 1:7>>, <<"abc", 0:5>>,
                  binary:copy(<<1, 2, 3>>, 10000)]).

tuples(Config) ->
    same(Config, [{}, {a}, {a, {b, {c}}}, list_to_tuple(lists:seq(1, 255)), list_to_tuple(lists:seq(1, 256)),
                  list_to_tuple(lists:seq(1, 70000))]).

maps_with_any_keys(Config) ->
    same(Config, [#{}, #{a => 1}, #{1 => a, 1.0 => b}, #{<<"k">> => v, "k" => v, k => v}, #{{a, b} => [], [] => {}},
                  #{#{nested => key} => #{nested => value}}, #{self() => me, make_ref() => ref},
                  #{-1 => [-1], 1 bsl 70 => 1}, maps:from_list([{N, {N}} || N <- lists:seq(1, 1000)])]).

pids_ports_and_references(Config) ->
    same(Config, [self(), make_ref(), hd(erlang:ports()), group_leader(), [self(), {make_ref()}]]),
    %% Those of the Erlang node itself have to be the very same ones when they are back.
    grid:on(?config(beam, Config), fun() ->
        Alive = whereis(kernel_sup),
        ?assert(is_process_alive(gen_server:call({echo, ?config(rust, Config)}, Alive))),
        [Port | _] = erlang:ports(),
        ?assertMatch({name, _}, erlang:port_info(gen_server:call({echo, ?config(rust, Config)}, Port), name))
    end).

aliases(Config) ->
    grid:on(?config(beam, Config), fun() ->
        Alias = alias(),
        Back = gen_server:call({echo, ?config(rust, Config)}, Alias),
        ?assertEqual(Alias, Back),
        Back ! through_the_alias,
        receive through_the_alias -> ok after 5000 -> error(lost) end
    end).

external_and_local_funs(Config) ->
    X = make_ref(),
    Local = fun(Y) -> {X, Y} end,
    same(Config, [fun erlang:node/0, fun no_module:no_function/255, fun lists:map/2, Local]),
    ?assertEqual({X, 1}, (echo(Config, gen_call, Local))(1)).

%% OTP 29 has records of their own type. `records` is called by a name that other releases need not know.
native_records(Config) ->
    Module = records,
    case code:ensure_loaded(Module) of
        {module, Module} ->
            Record = apply(Module, create, [?MODULE, point, [{x, 1}, {y, [-2]}], #{is_exported => true}]),
            ?assert(apply(erlang, is_record, [Record])),
            same(Config, [Record, [Record, {Record}], #{Record => Record}]);
        {error, _} ->
            {skip, "this release has no native records"}
    end.

terms_of_another_node(Config) ->
    Other = grid:peer(other),
    Terms = grid:on(Other, fun() -> [self(), make_ref(), hd(erlang:ports()), alias(), fun() -> ok end] end),
    grid:stop(Other),
    same(Config, Terms).

%% What this node itself would have to live long for: identifiers of 32 and 64 bits, the widest creation, references of one
%% word to five.
pids_ports_and_references_of_every_width(Config) ->
    Node = <<119, 10, "other@host">>,
    Wide = 16#FFFFFFFF,
    Pids = [<<88, Node/binary, Id:32, Serial:32, Creation:32>>
            || Id <- [0, 1 bsl 15, 1 bsl 28, Wide], Serial <- [0, 1 bsl 13, Wide], Creation <- [1, 4, 1 bsl 31, Wide]],
    Ports = [<<120, Node/binary, Id:64, Wide:32>> || Id <- [0, 1 bsl 28 - 1, 1 bsl 28, 1 bsl 32, (1 bsl 64) - 1]],
    References = [<<90, Words:16, Node/binary, Creation:32, (binary:copy(<<Wide:32>>, Words))/binary>>
                  || Words <- lists:seq(1, 5), Creation <- [1, Wide]],
    same(Config, [binary_to_term(<<131, Bytes/binary>>) || Bytes <- Pids ++ Ports ++ References]).

%% OTP sends atoms as UTF-8; an old library may send them as latin1.
both_atom_encodings(Config) ->
    {ok, Wire} = wire:connect(?config(port, Config), 'raw@127.0.0.1', erlang:get_cookie()),
    <<131, Pid/binary>> = term_to_binary(wire:pid(Wire)),
    Echoed = fun(Ref, Bytes) ->
        ok = wire:raw_frame(Wire, {6, wire:pid(Wire), '', echo}, [<<131, 104, 3>>, Pid, <<97, Ref>>, Bytes]),
        Answer = fun Answer() ->
            case wire:receive_frame(Wire, 5000) of
                {_, {Ref, Back}} -> Back;
                {error, Why} -> error(Why);
                _ -> Answer()
            end
        end,
        Answer()
    end,
    Sent = [{<<100, 2:16, "ok">>, ok}, {<<115, 2, "ok">>, ok}, {<<100, 3:16, "a", 228, 255>>, 'aäÿ'},
            {<<115, 3, "a", 228, 255>>, 'aäÿ'}, {<<119, 5, "aäÿ"/utf8>>, 'aäÿ'}, {<<118, 5:16, "aäÿ"/utf8>>, 'aäÿ'},
            {<<100, 255:16, (binary:copy(<<252>>, 255))/binary>>, list_to_atom(lists:duplicate(255, $ü))},
            {<<104, 2, 115, 1, 252, 100, 0:16>>, {'ü', ''}}],
    [?assertEqual(Atom, Echoed(Ref, Bytes)) || {Ref, {Bytes, Atom}} <- lists:enumerate(Sent)],
    wire:close(Wire).

compressed_terms_inside_of_binaries(Config) ->
    Terms = [lists:duplicate(10000, a), {some, binary:copy(<<"text">>, 5000)}, #{key => lists:seq(1, 1000)}],
    Packed = [term_to_binary(Term, [{compressed, 9}]) || Term <- Terms],
    [?assertMatch(<<131, 80, _/binary>>, Bytes) || Bytes <- Packed],
    same(Config, Packed ++ [{Packed, [term_to_binary(Packed, [compressed])]}]),
    ?assertEqual(Terms, [binary_to_term(Bytes) || Bytes <- echo(Config, rpc, Packed)]).

%% A reason is a payload of its own, as large as any message, in both directions.
exit_reasons_of_two_mebibytes(Config) ->
    Rust = ?config(rust, Config),
    grid:on(?config(beam, Config), fun() ->
        Large = [binary:copy(<<"0123456789abcdef">>, 65536), lists:seq(-50000, 50000)],
        %% The result of erpc is the reason of the process that a monitor there tells of.
        ?assertEqual(Large, erpc:call(Rust, echo, echo, [Large], 20000)),
        %% A process there that fails, with its arguments in the reason.
        process_flag(trap_exit, true),
        {Linked, Ref} = spawn_opt(Rust, no_module, no_function, Large, [link, monitor]),
        Reason = receive {'EXIT', Linked, Exited} -> Exited after 20000 -> error(no_exit) end,
        ?assertMatch({undef, [{no_module, no_function, Large, []} | _]}, Reason),
        receive {'DOWN', Ref, process, Linked, Down} -> ?assertEqual(Reason, Down) after 20000 -> error(no_down) end,
        %% Processes here that end, linked to one there; and exit/2.
        Echo = rpc:call(Rust, erlang, whereis, [echo]),
        ?assertEqual(Rust, node(Echo)),
        [spawn_monitor(fun() -> link(Echo), exit({failed, Large}) end) || _ <- [1, 2]],
        [receive {'DOWN', _, process, _, {failed, Large}} -> ok after 20000 -> error(still_here) end || _ <- [1, 2]],
        exit(Echo, {failed, Large}),
        ?assertEqual(there, gen_server:call({echo, Rust}, there)),
        ?assertEqual(Echo, rpc:call(Rust, erlang, whereis, [echo]))
    end).

terms_nested_five_thousand_deep(Config) ->
    same(Config, [nested(fun(T) -> [T] end, 5000), nested(fun(T) -> {T} end, 5000), nested(fun(T) -> #{k => T} end, 5000),
                  nested(fun(T) -> {a, [T | tail]} end, 2500)]).

a_term_that_is_nested_too_deep_costs_only_itself(Config) ->
    Rust = ?config(rust, Config),
    grid:on(?config(beam, Config), fun() ->
        {echo, Rust} ! {self(), deep, nested(fun(T) -> {T} end, 1000000)},
        ?assertEqual(after_it, gen_server:call({echo, Rust}, after_it)),
        receive Message -> error({answered, element(1, Message)}) after 0 -> ok end
    end).

a_binary_of_a_mebibyte(Config) -> same(Config, [binary:copy(<<"0123456789abcdef">>, 65536)]).

a_binary_of_32_mebibytes(Config) ->
    Rust = ?config(rust, Config),
    grid:on(?config(beam, Config), fun() ->
        Binary = binary:copy(<<"0123456789abcdef">>, 2 * 1024 * 1024),
        ?assert(Binary =:= gen_server:call({echo, Rust}, Binary, 30000))
    end).

a_hundred_thousand_elements(Config) ->
    same(Config, [[{N, N * 1.5, <<N:32>>} || N <- lists:seq(1, 100000)]]).

random_terms(Config) ->
    Seed = rand:seed(exsss),
    ct:log("seed: ~p", [rand:export_seed_s(Seed)]),
    same(Config, [random(4) || _ <- lists:seq(1, 500)]).

%% ---------------------------------------------------------------- to send and compare

calls() -> [gen_call, rpc, message].

%% All of them at once in each way; when they differ, the first that does is shown.
same(Config, Terms) ->
    lists:foreach(fun(Call) ->
                          case echo(Config, Call, Terms) of
                              Terms -> ok;
                              Back -> ?assertEqual({Call, [T || {T, B} <- lists:zip(Terms, Back), T =/= B]},
                                                   {Call, [B || {T, B} <- lists:zip(Terms, Back), T =/= B]})
                          end
                  end, calls()).

echo(Config, Call, Term) ->
    %% From the Erlang node, so that it says itself whether the term is the same.
    {Same, Back} = grid:call(?config(beam, Config), ?MODULE, echoed, [{Call, ?config(rust, Config)}, Term]),
    ?assert(Same orelse Back =/= Term),
    Back.

echoed(How, Term) ->
    Back = wrapped(How, Term),
    {Back =:= Term, Back}.

wrapped({gen_call, Rust}, Term) -> gen_server:call({echo, Rust}, Term, 20000);
wrapped({rpc, Rust}, Term) -> rpc:call(Rust, echo, echo, [Term], 20000);
wrapped({message, Rust}, Term) ->
    Ref = make_ref(),
    {echo, Rust} ! {self(), Ref, Term},
    receive {Ref, Back} -> Back after 20000 -> nothing_came end.

nested(_, 0) -> [];
nested(Wrap, Depth) -> Wrap(nested(Wrap, Depth - 1)).

random(0) ->
    case rand:uniform(9) of
        1 -> rand:uniform(512) - 256;
        2 -> (rand:uniform(1 bsl 80) - (1 bsl 79));
        3 -> (rand:uniform() - 0.5) * math:pow(10, rand:uniform(40) - 20);
        4 -> lists:nth(rand:uniform(4), [a, 'B c', [], 'ß']);
        5 -> rand:bytes(rand:uniform(20));
        6 -> <<(rand:uniform(1 bsl 13)):13>>;
        7 -> [rand:uniform(256) - 1 || _ <- lists:seq(1, rand:uniform(10))];
        8 -> make_ref();
        9 -> self()
    end;
random(Depth) ->
    Some = fun() -> [random(rand:uniform(Depth) - 1) || _ <- lists:seq(1, rand:uniform(6) - 1)] end,
    case rand:uniform(5) of
        1 -> Some();
        2 -> list_to_tuple(Some());
        3 -> maps:from_list([{K, random(Depth - 1)} || K <- Some()]);
        4 -> Some() ++ random(0);
        5 -> random(0)
    end.
