%% What frame_SUITE and broken_frame_SUITE stand on: a Rust node with an Erlang node that is connected all the while, and
%% a node made by hand (`wire.erl`) that asks its process `echo`.
-module(by_hand).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([init_per_suite/1, init_per_testcase/1, end_per_testcase/1]).
-export([agreements/0, with_headers/0, with_fragments/0, connect/2, connect/3]).
-export([to_echo/1, ask/3, answer/1, echoed/2]).

-type agreed() :: [cache | fragments | altact].

-spec init_per_suite(list()) -> list().
init_per_suite(Config) ->
    Rust = rust:start(rust, #{args => ["--echo", "--log-level", "debug"]}),
    [{rust, Rust}, {beam, grid:peer(beam)} | Config].

-spec init_per_testcase(list()) -> list().
init_per_testcase(Config) -> [{running, grid:running()}, {connection, connection(Config)} | Config].

%% Whatever a case sent: in the end the same connection to the Erlang node stands that stood before.
-spec end_per_testcase(list()) -> ok | {fail, term()}.
end_per_testcase(Config) ->
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

%% What two nodes can agree upon as far as it shows in frames.
-spec agreements() -> [agreed()].
agreements() -> [[], [cache], [fragments], [cache, fragments], [cache, fragments, altact]].

-spec with_headers() -> [agreed()].
with_headers() -> [Agreed || Agreed <- agreements(), Agreed =/= []].

-spec with_fragments() -> [agreed()].
with_fragments() -> [Agreed || Agreed <- with_headers(), lists:member(fragments, Agreed)].

-spec connect(list(), agreed()) -> wire:wire().
connect(Config, Agreed) -> connect(Config, 'raw@127.0.0.1', Agreed).

-spec connect(list(), node(), agreed()) -> wire:wire().
connect(Config, Name, Agreed) ->
    #{port := Port} = ?config(rust, Config),
    {ok, Wire} = wire:connect(Port, Name, erlang:get_cookie(), wire:flags(Agreed)),
    Wire.

%% The control message of what is sent to `echo`.
-spec to_echo(wire:wire()) -> tuple().
to_echo(Wire) -> {6, wire:pid(Wire), '', echo}.

%% Asks without waiting.
-spec ask(wire:wire(), term(), term()) -> ok.
ask(Wire, Ref, Term) -> ok = wire:frame(Wire, to_echo(Wire), {wire:pid(Wire), Ref, Term}).

%% The next message, which must be an answer.
-spec answer(wire:wire()) -> {Ref :: term(), term()}.
answer(Wire) ->
    Pid = wire:pid(Wire),
    case wire:receive_frame(Wire, 20000) of
        {{2, '', Pid}, Answer} -> Answer;
        Other -> error({no_answer, Other})
    end.

%% The term comes back as it was sent.
-spec echoed(wire:wire(), term()) -> ok.
echoed(Wire, Term) ->
    Ref = make_ref(),
    ask(Wire, Ref, Term),
    ?assertEqual({Ref, Term}, answer(Wire)).
