%% Rust nodes: the built binary, started through the launcher.
-module(rust).

-export([start/1, start/2, stop/1, kill/1, fails/1, fails/2, run/1, run/2, said/2, saying/2]).
-export_type([rust/0]).

-type rust() :: #{node := node(), handle := launch:handle(), port := inet:port_number()}.
-type opts() :: #{short => boolean(), redis => grid:redis() | string(), domain => string(), version => string(),
                  args => [string()], env => [{string(), string() | false}]}.

%% `redgrid node --name Name@127.0.0.1`, which is registered with epmd when this returns.
%%
%% With `short` it is `--sname Name@localhost`. Without `redis` it has none to talk to, without `domain` it has a mesh of its own: then no other node
%% of the run connects to it by itself.
-spec start(atom()) -> rust().
start(Name) -> start(Name, #{}).

-spec start(atom(), opts()) -> rust().
start(Name, Opts) ->
    {ok, Handle} = launch:start(redgrid, node_args(Name, Opts), maps:get(env, Opts, [])),
    grid:until(fun() ->
                       case {registered_port(Name), launch:wait_exit(Handle, 0)} of
                           {{ok, _}, {error, {timeout, _}}} -> true;
                           {_, {ok, Code}} -> {exited, Code, launch:lines(Handle)};
                           {error, _} -> {not_registered, launch:lines(Handle)}
                       end
               end, 15000),
    {ok, Port} = registered_port(Name),
    #{node => list_to_atom(full_name(Name, Opts)), handle => Handle, port => Port}.

full_name(Name, #{short := true}) -> atom_to_list(Name) ++ "@localhost";
full_name(Name, _) -> atom_to_list(Name) ++ "@127.0.0.1".

node_args(Name, Opts) ->
    Text = atom_to_list(Name),
    ["node", case Opts of #{short := true} -> "--sname"; _ -> "--name" end, full_name(Name, Opts),
     "--redis", case maps:get(redis, Opts, none) of
                    #{url := Url} -> Url;
                    none -> "redis://127.0.0.1:1/";
                    Url -> Url
                end,
     "--domain", maps:get(domain, Opts, Text)]
        ++ lists:append([["--mesh-version", V] || {ok, V} <- [maps:find(version, Opts)]])
        ++ maps:get(args, Opts, []).

registered_port(Name) ->
    case net_adm:names({127, 0, 0, 1}) of
        {ok, Names} ->
            case lists:keyfind(atom_to_list(Name), 1, Names) of
                {_, Port} -> {ok, Port};
                false -> error
            end;
        {error, _} -> error
    end.

%% Asks it to end; gives its exit code and how many ms it took.
-spec stop(rust()) -> {integer(), non_neg_integer()}.
stop(#{handle := Handle}) ->
    Began = erlang:monotonic_time(millisecond),
    launch:signal(Handle, term),
    case launch:wait_exit(Handle, 15000) of
        {ok, Code} -> {Code, erlang:monotonic_time(millisecond) - Began};
        {error, Why} -> error({does_not_stop, Why})
    end.

-spec kill(rust()) -> ok.
kill(#{handle := Handle}) ->
    launch:signal(Handle, kill),
    {ok, 137} = launch:wait_exit(Handle, 5000),
    ok.

%% Any command to its end: exit code and everything that it printed, on stdout and stderr.
-spec run([string()]) -> {integer(), string()}.
run(Args) -> run(Args, []).

-spec run([string()], [{string(), string() | false}]) -> {integer(), string()}.
run(Args, Env) ->
    {ok, Handle} = launch:start(redgrid, Args, Env),
    Exit = launch:wait_exit(Handle, 30000),
    Lines = launch:lines(Handle),
    launch:stop(Handle),
    case Exit of
        {ok, Code} -> {Code, unicode:characters_to_list(lists:join("\n", Lines))};
        {error, _} -> error({does_not_end, Args, Lines})
    end.

%% The same for what is expected to fail; a node would run for ever otherwise.
-spec fails([string()]) -> {integer(), string()}.
fails(Args) -> fails(Args, []).

-spec fails([string()], [{string(), string() | false}]) -> {integer(), string()}.
fails(Args, Env) ->
    case run(Args, Env) of
        {0, Text} -> error({did_not_fail, Args, Text});
        Failed -> Failed
    end.

%% How many lines of its log match.
-spec said(rust(), iodata()) -> non_neg_integer().
said(#{handle := Handle}, Regex) ->
    length([Line || Line <- launch:lines(Handle), re:run(Line, Regex, [{capture, none}]) =:= match]).

%% Waits for such a line, and fails showing all lines.
-spec saying(rust(), iodata()) -> binary().
saying(#{handle := Handle} = Rust, Regex) ->
    grid:until(fun() -> said(Rust, Regex) > 0 orelse {not_said, Regex, launch:lines(Handle)} end, 15000),
    hd([Line || Line <- launch:lines(Handle), re:run(Line, Regex, [{capture, none}]) =:= match]).
