%% The Erlang side of smoke.rs: a node that does what it is told on its standard input, one line a command, and answers
%% each with one line. It ends when its input is closed, so also when the bench is killed.
%%
%%   otp                  OTP-RELEASE ERTS-VERSION
%%   mesh                 starts the application redgrid, answers `up`
%%   pong NODE            pings until there is a pong, answers `up`
%%   nodes NODE ...       waits until all of them are in nodes(), answers `up`
%%   calls NODE COUNT     COUNT calls of {echo, NODE}, one at a time, answers MICROSECONDS
-module(smoke).
-behaviour(gen_server).
-export([main/0, init/1, handle_call/3, handle_cast/2]).

main() ->
    {ok, _} = gen_server:start_link({local, echo}, ?MODULE, [], []),
    loop().

init([]) -> {ok, none}.
handle_call(Request, _From, State) -> {reply, Request, State}.
handle_cast(_, State) -> {noreply, State}.

loop() ->
    case io:get_line("") of
        Line when is_list(Line) ->
            io:put_chars([run(string:lexemes(Line, " \n")), $\n]),
            loop();
        _ ->
            halt(0, [{flush, false}])
    end.

run(["otp"]) ->
    [erlang:system_info(otp_release), " ", erlang:system_info(version)];
run(["mesh"]) ->
    {ok, _} = application:ensure_all_started(redgrid),
    "up";
run(["pong", Node]) ->
    pong(list_to_atom(Node));
run(["nodes" | Nodes]) ->
    until_seen([list_to_atom(Node) || Node <- Nodes]);
run(["calls", Node, Count]) ->
    Echo = {echo, list_to_atom(Node)},
    {Time, ok} = timer:tc(fun() -> calls(Echo, list_to_integer(Count)) end),
    integer_to_list(Time).

pong(Node) ->
    case net_adm:ping(Node) of
        pong -> "up";
        pang -> timer:sleep(1), pong(Node)
    end.

until_seen(Nodes) ->
    case Nodes -- nodes() of
        [] -> "up";
        _ -> timer:sleep(20), until_seen(Nodes)
    end.

calls(_, 0) ->
    ok;
calls(Echo, Left) ->
    {ping, Left} = gen_server:call(Echo, {ping, Left}),
    calls(Echo, Left - 1).
