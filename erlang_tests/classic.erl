%% Stand-ins for the Erlang redgrid of 2011 to 2013, in its two dialects, made from the schema alone: the hash
%% `redgrid:DOMAIN:VERSION:NODE` with `ip` and the meta, all text, and the channel `redgrid:DOMAIN:VERSION`.
%%
%%   talking   expiry 60 s, renewed every 10 s. Says `ping` when it starts. A `ping` that it hears makes it register
%%             again and publish its key; any other message is the key of a node: it is looked up and connected to.
%%   polling   never publishes and never listens: writes its hash every 2 s with an expiry of 120 s, and finds the
%%             others by KEYS.
%%
%% Runs on a peer (grid:call(Peer, classic, start, [...])), where it has the name `redgrid`, as the original had.
-module(classic).
-behaviour(gen_server).

-export([start/5, nodes/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-record(state, {dialect :: talking | polling,
                redis :: grid:redis(),
                prefix :: string(),
                meta :: [{string(), string()}],
                nodes = #{} :: #{node() => [{binary(), binary()}]}}).

-spec start(talking | polling, grid:redis(), string(), string(), [{string(), string()}]) -> pid().
start(Dialect, Redis, Domain, Version, Meta) ->
    Prefix = "redgrid:" ++ Domain ++ ":" ++ Version,
    {ok, Pid} = gen_server:start({local, redgrid}, ?MODULE, {Dialect, Redis, Prefix, Meta}, []),
    Pid.

%% Who it has found and is connected to, with everything in their hashes.
-spec nodes() -> [{node(), [{binary(), binary()}]}].
nodes() -> gen_server:call(redgrid, nodes).

init({Dialect, Redis, Prefix, Meta}) ->
    State = #state{dialect = Dialect, redis = Redis, prefix = Prefix, meta = Meta},
    _ = [grid:subscribe(Redis, [Prefix]) || Dialect =:= talking],
    register_node(State),
    _ = [published(State, "ping") || Dialect =:= talking],
    self() ! again,
    {ok, State}.

handle_call(nodes, _, State) ->
    Connected = erlang:nodes(connected),
    {reply, lists:sort(maps:to_list(maps:with(Connected, State#state.nodes))), State};
handle_call(_, _, State) ->
    {reply, unknown_message, State}.

handle_cast(_, State) -> {noreply, State}.

handle_info(again, #state{dialect = talking} = State) ->
    erlang:send_after(10000, self(), again),
    register_node(State),
    {noreply, State};
handle_info(again, #state{dialect = polling, redis = Redis, prefix = Prefix} = State) ->
    erlang:send_after(2000, self(), again),
    register_node(State),
    {noreply, lists:foldl(fun found/2, State, grid:cmd(Redis, ["KEYS", Prefix ++ ":*"]))};
handle_info({published, _, <<"ping">>}, State) ->
    register_node(State),
    published(State, key(State)),
    {noreply, State};
handle_info({published, _, Key}, State) ->
    {noreply, found(Key, State)};
handle_info(_, State) ->
    {noreply, State}.

key(#state{prefix = Prefix}) -> Prefix ++ ":" ++ atom_to_list(node()).

register_node(#state{redis = Redis, meta = Meta, dialect = Dialect} = State) ->
    Fields = lists:append([[K, V] || {K, V} <- [{"ip", "127.0.0.1"} | Meta]]),
    _ = grid:cmd(Redis, ["HSET", key(State) | Fields]),
    1 = grid:cmd(Redis, ["EXPIRE", key(State), case Dialect of talking -> 60; polling -> 120 end]).

published(#state{redis = Redis, prefix = Prefix}, Message) ->
    grid:cmd(Redis, ["PUBLISH", Prefix, Message]).

%% The node's name is what is behind the prefix, by its length; where it is, is what `ip` says.
found(Key, #state{redis = Redis, prefix = Prefix, nodes = Nodes} = State) ->
    Own = list_to_binary(key(State)),
    Length = length(Prefix) + 1,
    case Key of
        Own -> State;
        <<_:Length/binary, Name/binary>> ->
            case grid:cmd(Redis, ["HGETALL", Key]) of
                [] -> State;
                Flat ->
                    Fields = pairs(Flat),
                    Node = binary_to_atom(Name),
                    [_, Host] = string:split(binary_to_list(Name), "@"),
                    {ok, Ip} = inet:getaddr(binary_to_list(proplists:get_value(<<"ip">>, Fields)), inet),
                    inet_db:add_host(Ip, [Host]),
                    _ = net_adm:ping(Node),
                    State#state{nodes = Nodes#{Node => Fields}}
            end
    end.

pairs([]) -> [];
pairs([Key, Value | Rest]) -> [{Key, Value} | pairs(Rest)].
