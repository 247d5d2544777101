%% @doc redgrid: nodes find each other through Redis.
%%
%% Each node announces itself and its meta data in Redis, hears of the others there, and connects to them:
%%
%% ```
%% (foo@10.0.0.1)1> redgrid:update_meta([{weight, 0}]).
%% ok
%% (bar@10.0.0.2)1> redgrid:nodes([native]).
%% [{'bar@10.0.0.2',[{ip,"10.0.0.2"}]},
%%  {'foo@10.0.0.1',[{ip,"10.0.0.1"},{weight,0}]}]
%% '''
%%
%% The process `redgrid' owns two connections to Redis, one for commands and one for the two channels, and never waits for
%% either: replies come as messages, so `nodes/0' answers at once whatever Redis does. While Redis is away the node
%% stays up with its last view, tries again after 250 ms up to 5 s, and registers again on return. Dialling happens in
%% processes of its own.
%%
%% The rules of who is listed are in {@link redgrid_view}, the names and shapes in Redis in
%% {@link redgrid_registration}, the settings in {@link redgrid_config}.
-module(redgrid).
-behaviour(gen_server).

-compile({no_auto_import, [nodes/0, nodes/1]}).
-include_lib("kernel/include/logger.hrl").

-export([start_link/0, start_link/1, nodes/0, nodes/1, update_meta/1, update_meta/2]).
-export([suspend/0, resume/0, get_status/0, node_info/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export_type([server/0, entry/0, info/0]).

-type server() :: pid() | atom() | {atom(), node()} | {global, term()} | {via, module(), term()}.
-type entry() :: {node() | binary(), [{atom() | binary(), term()}]}.
%% A node and its meta. The name of a node is an atom, save where the bound on new atoms (10,000) is reached.
-type info() :: #{node := binary(),
                  address := binary(),                % the registered ip
                  port := unknown | inet:port_number(),
                  proto := binary(),
                  impl := binary(),
                  creation := non_neg_integer(),
                  started_at := non_neg_integer(),    % unix ms by Redis' clock, 0: unknown
                  hidden := boolean(),
                  status := binary(),                 % up, suspended, or what its program set
                  connected := boolean(),
                  state := own | new | up | down,
                  not_dialled => other_name_style | other_proto | no_port | forbidden_address,
                  since := integer(),                 % unix ms, since when it is in that state
                  age_ms := non_neg_integer(),        % how old this knowledge is
                  meta := [{binary(), binary()}]}.

-define(TICK, 500).
-define(RENEW, 10000).
-define(SCAN, 30000).
-define(SCAN_RETRY, 2000).
-define(PING_GAP, 1000).
-define(BACKOFF_FIRST, 250).
-define(BACKOFF_LAST, 5000).
-define(MAX_LOOK_UPS, 200).
-define(MAX_WANTED, 20000).
-define(MAX_DIALS, 50).
-define(MAX_COMPLAINTS, 1000).
-define(MAX_ASKING, 1000).

-record(state, {config :: redgrid_config:config(),
                own :: redgrid_registration:registration(),
                up_since :: integer(),
                suspended = false :: boolean(),
                %% The two connections, and which of them are ready. `joined' once we have registered over them.
                commands :: pid() | undefined,
                channels :: pid() | undefined,
                ready = [] :: [pid()],
                subscribed = 0 :: 0..2,
                joined = false :: boolean(),
                backoff = ?BACKOFF_FIRST :: pos_integer(),
                trouble :: term(),
                %% Redis' clock in unix ms minus our monotonic one, measured at each renewal.
                offset = 0 :: integer(),
                renew_at = 0 :: integer(),
                renewals = 0 :: non_neg_integer(),
                register = false :: boolean(),     % the next renewal has to be a registration in full
                own_pings = 0 :: non_neg_integer(),
                last_announced = 0 :: integer(),
                ping_timer :: reference() | undefined,
                scan_at = 0 :: integer(),
                scanned = false :: boolean(),
                scanning = false :: boolean(),
                view :: redgrid_view:view(),
                %% Who is to be looked up, and how many look-ups are open.
                wanted = #{} :: #{binary() => published | check | scan},
                look_ups = 0 :: non_neg_integer(),
                asking = [] :: [{binary(), gen_server:from()}],
                acting = false :: boolean(),       % a message `act' is on its way
                dialling = #{} :: #{reference() => {pid(), binary()}},
                hosts :: redgrid_dial:book(),
                complaints = #{} :: #{term() => []}}).

%% @doc Starts the process `redgrid' with the meta of the application environment.
-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    start_link(redgrid_config:meta()).

%% @doc Starts the process `redgrid'. `{error, {not_distributed, Mend}}': this node has no name. `{error, {bad_config,
%% Name, Why}}': a setting is wrong. `{error, {bad_meta, What}}': the meta is.
-spec start_link(redgrid_meta:meta()) -> {ok, pid()} | {error, term()}.
start_link(Meta) ->
    case {is_alive() andalso node() =/= nonode@nohost, redgrid_meta:check(Meta)} of
        {false, _} ->
            {error, {not_distributed, "redgrid needs a distributed node: start erl with -name or -sname"}};
        {true, {error, Reason}} ->
            {error, Reason};
        {true, {ok, Typed}} ->
            case redgrid_config:read() of
                {ok, Config} -> started(gen_server:start_link({local, ?MODULE}, ?MODULE, {Config, Typed}, []));
                {error, Reason} -> {error, Reason}
            end
    end.

started({ok, Pid}) -> {ok, Pid};
started({error, Reason}) -> {error, Reason};
started(ignore) -> {error, ignore}.

%% @doc The mesh as this node sees it: this node first, the others by name. Keys and values are binaries; `ip' comes
%% first.
-spec nodes() -> [entry()].
nodes() ->
    gen_server:call(?MODULE, nodes).

%% @doc With a list: options. `native' gives keys and values as they were given, for members that are connected; the
%% text of the others stays as it is, since nobody vouches for it. With anything else: asks that process, here or on
%% another node.
-spec nodes([native | {native, boolean()}] | server()) -> [entry()].
nodes(Options) when is_list(Options) ->
    gen_server:call(?MODULE, {nodes, Options});
nodes(Server) ->
    gen_server:call(Server, nodes).

%% @doc Replaces the meta of this node: a key that is not named any more disappears everywhere. A proplist or a map; keys
%% are atoms, binaries or strings of at most 255 bytes, values atoms, binaries, strings, integers or floats of at most
%% 4 KiB as text; a bare atom is `{Atom, true}'; at most 64 entries; `ip' is reserved. Bad meta changes nothing.
-spec update_meta(redgrid_meta:meta()) -> ok | {error, redgrid_meta:bad_meta()}.
update_meta(Meta) ->
    gen_server:call(?MODULE, {update_meta, Meta}).

%% @doc The same for the node of another process, by cast, as the original does: `ok' means that it is on its way.
-spec update_meta(server(), redgrid_meta:meta()) -> ok | {error, redgrid_meta:bad_meta()}.
update_meta(Server, Meta) ->
    case redgrid_meta:check(Meta) of
        {ok, _} -> gen_server:cast(Server, {update_meta, Meta});
        {error, Reason} -> {error, Reason}
    end.

%% @doc Takes this node out of the mesh without taking it down: its registration goes, its info stays with the status
%% `suspended', its connections stay.
-spec suspend() -> ok.
suspend() ->
    gen_server:call(?MODULE, suspend).

%% @doc Registers this node again.
-spec resume() -> ok.
resume() ->
    gen_server:call(?MODULE, resume).

%% @doc Whether this node is suspended.
-spec get_status() -> normal | suspended.
get_status() ->
    gen_server:call(?MODULE, get_status).

%% @doc All that is known of a node, listed or not. A node that is not known is looked up in Redis.
-spec node_info(node() | binary() | string()) -> {ok, info()} | {error, not_found}.
node_info(Node) ->
    gen_server:call(?MODULE, {node_info, Node}).

%% @private
-spec init({redgrid_config:config(), redgrid_meta:typed()}) -> {ok, #state{}}.
init({#{ip := Ip, ip6 := Ip6} = Config, Meta}) ->
    process_flag(trap_exit, true),
    ok = net_kernel:monitor_nodes(true, [{node_type, all}, nodedown_reason]),
    Own = #{node => atom_to_binary(node(), utf8), ip => Ip, ip6 => Ip6, port => own_port(Ip), proto => redgrid_dial:proto(),
            creation => erlang:system_info(creation), impl => impl(), started_at => 0,
            hidden => init:get_argument(hidden) =/= error, status => <<"up">>, classic => false, meta => Meta},
    _ = erlang:send_after(?TICK, self(), tick),
    self() ! connect,
    {ok, #state{config = Config, own = Own, up_since = now_ms(), view = redgrid_view:new(maps:get(node, Own)),
                hosts = redgrid_dial:host_book()}}.

%% The port that this node listens at, as epmd has it; 0 when there is no way to know, and then nobody dials it by port.
own_port(Ip) ->
    [Name, _] = string:split(atom_to_list(node()), "@"),
    Module = case init:get_argument(epmd_module) of
                 {ok, [[Given] | _]} -> list_to_atom(Given);
                 _ -> erl_epmd
             end,
    Ask = fun(Host) ->
                  try Module:port_please(Name, Host, 2000) of
                      {port, Port, _Version} -> Port;
                      _ -> 0
                  catch
                      _:_ -> 0
                  end
          end,
    case Ask("127.0.0.1") of
        0 -> Ask(binary_to_list(Ip));
        Port -> Port
    end.

impl() ->
    Version = case application:get_key(redgrid, vsn) of
                  {ok, Text} -> Text;
                  undefined -> "0.1.0"
              end,
    iolist_to_binary(["erlang/OTP", erlang:system_info(otp_release), " redgrid/", Version]).

%% @private
-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}} | {noreply, #state{}}.
handle_call(nodes, _From, State) ->
    {reply, list([], State), State};
handle_call({nodes, Options}, _From, State) when is_list(Options) ->
    {reply, list(Options, State), State};
handle_call({update_meta, Meta}, _From, State) ->
    case redgrid_meta:check(Meta) of
        {ok, Typed} -> {reply, ok, replace_meta(Typed, State)};
        {error, Reason} -> {reply, {error, Reason}, State}
    end;
handle_call(suspend, _From, State) ->
    {reply, ok, set_suspended(true, State)};
handle_call(resume, _From, State) ->
    {reply, ok, set_suspended(false, State)};
handle_call(get_status, _From, #state{suspended = true} = State) ->
    {reply, suspended, State};
handle_call(get_status, _From, State) ->
    {reply, normal, State};
handle_call({node_info, Node}, From, State) ->
    info_of(Node, From, State);
handle_call({remember_host, Host, Address}, {Pid, _}, #state{hosts = Hosts, own = #{node := Own}} = State) ->
    %% Only our own dialling may change the host table, and nobody takes over the name of our own host.
    Ours = lists:keymember(Pid, 1, maps:values(State#state.dialling))
        andalso list_to_binary(Host) =/= redgrid_registration:host_of(Own),
    case Ours of
        true -> {reply, ok, State#state{hosts = redgrid_dial:remember_host(Host, Address, Hosts)}};
        false -> {reply, ok, State}
    end;
handle_call(_Request, _From, State) ->
    {reply, unknown_message, State}.

%% @private
-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({update_meta, Meta}, State) ->
    case redgrid_meta:check(Meta) of
        {ok, Typed} ->
            {noreply, replace_meta(Typed, State)};
        {error, {bad_meta, What}} ->
            ?LOG_WARNING("redgrid: bad meta refused, nothing changed: ~P", [What, 20]),
            {noreply, State}
    end;
handle_cast(_Message, State) ->
    {noreply, State}.

%% @private
-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info(tick, State) ->
    _ = erlang:send_after(?TICK, self(), tick),
    {noreply, act(periodic(now_ms(), State))};
handle_info(act, State) ->
    {noreply, act(State#state{acting = false})};
handle_info({redgrid_redis, Pid, What}, #state{commands = C, channels = S} = State) when Pid =:= C; Pid =:= S ->
    {noreply, pump(redis(What, Pid, State))};
handle_info({nodeup, Node, _Info}, State) ->
    {noreply, pump(node_up(atom_to_binary(Node, utf8), State))};
handle_info({nodedown, Node, Info}, State) ->
    {noreply, node_down(atom_to_binary(Node, utf8), Info, State)};
handle_info({'DOWN', Ref, process, _Pid, Result}, #state{dialling = Dialling} = State)
  when is_map_key(Ref, Dialling) ->
    {noreply, dialled(Ref, Result, State)};
handle_info({'EXIT', Pid, Reason}, #state{commands = C, channels = S} = State) when Pid =:= C; Pid =:= S ->
    {noreply, lost(Reason, State)};
handle_info(connect, #state{commands = undefined} = State) ->
    {noreply, connect(State)};
handle_info(announce, State) ->
    {noreply, announce(State#state{ping_timer = undefined})};
handle_info(_Message, State) ->
    {noreply, State}.

%% @private
-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{joined = true, own = #{node := Node} = Own} = State) ->
    Event = redgrid_registration:encode_event(<<"left">>, Own, Node, redis_ms(State)),
    _ = redgrid_redis:pipeline(State#state.commands, redgrid_registration:leave(scope(State), Node, Event), 1000),
    ok;
terminate(_Reason, _State) ->
    ok.

%%% The answers

list(Options, #state{own = #{node := Name, ip := Ip, meta := Meta}, view = View}) ->
    Native = proplists:get_bool(native, Options),
    [{node(), entry(Native, Ip, Meta)}
     | [{node_atom(Node), entry(Native andalso redgrid_view:connected(Member), IpOf, MetaOf)}
        || {Node, Member} <- redgrid_view:members(View), Node =/= Name, redgrid_view:listed(Member),
           #{ip := IpOf, meta := MetaOf} <- [redgrid_view:registration(Member)]]].

entry(true, Ip, Meta) ->
    [{ip, binary_to_list(Ip)} | redgrid_meta:native(Meta, fun redgrid_atoms:from_text/1)];
entry(false, Ip, Meta) ->
    [{<<"ip">>, Ip} | redgrid_meta:text(Meta)].

node_atom(Name) ->
    case redgrid_atoms:from_text(Name) of
        {ok, Node} -> Node;
        error -> Name
    end.

info_of(Node, From, #state{own = #{node := Own}} = State) ->
    case node_name(Node) of
        {ok, Own} ->
            {reply, {ok, info(State#state.own, true, own, State#state.up_since, now_ms())}, State};
        {ok, Name} ->
            case redgrid_view:find(Name, State#state.view) of
                {ok, Member} -> {reply, {ok, member_info(Member, Own)}, State};
                error when State#state.joined, length(State#state.asking) < ?MAX_ASKING ->
                    {noreply, pump(want(Name, check, State#state{asking = [{Name, From} | State#state.asking]}))};
                error -> {reply, {error, not_found}, State}
            end;
        error ->
            {reply, {error, not_found}, State}
    end.

node_name(Node) when is_atom(Node) -> node_name(atom_to_binary(Node, utf8));
node_name(Node) when is_list(Node) ->
    try node_name(list_to_binary(Node)) catch error:badarg -> error end;
node_name(Node) when is_binary(Node) ->
    case redgrid_registration:valid_node(Node) of
        true -> {ok, Node};
        false -> error
    end;
node_name(_Node) -> error.

member_info(Member, Own) ->
    Registration = redgrid_view:registration(Member),
    Info = info(Registration, redgrid_view:connected(Member), redgrid_view:state(Member), redgrid_view:since(Member),
                redgrid_view:heard(Member)),
    case redgrid_dial:allowed(Registration, Own) of
        ok -> Info;
        {refused, Why} -> Info#{not_dialled => Why}
    end.

info(#{ip := Ip, meta := Meta} = Registration, Connected, Where, Since, Heard) ->
    Info = maps:with([node, port, proto, impl, creation, started_at, hidden, status], Registration),
    Now = now_ms(),
    Info#{address => Ip, connected => Connected, state => Where, since => erlang:system_time(millisecond) - (Now - Since),
          age_ms => case Where of own -> 0; _ -> Now - Heard end, meta => redgrid_meta:text(Meta)}.

answer_asking(Name, #state{asking = Asking, own = #{node := Own}} = State) ->
    {Ours, Others} = lists:partition(fun({Asked, _}) -> Asked =:= Name end, Asking),
    Answer = case redgrid_view:find(Name, State#state.view) of
                 {ok, Member} -> {ok, member_info(Member, Own)};
                 error -> {error, not_found}
             end,
    lists:foreach(fun({_, From}) -> gen_server:reply(From, Answer) end, Ours),
    State#state{asking = Others}.

%%% Our own registration

replace_meta(Meta, #state{own = #{meta := Meta}} = State) ->
    State;
replace_meta(Meta, #state{own = Own} = State) ->
    publish([<<"meta">>], State#state{own = Own#{meta := Meta}}).

set_suspended(Suspended, #state{suspended = Suspended} = State) ->
    State;
set_suspended(true, #state{own = Own} = State) ->
    publish([<<"suspended">>], State#state{suspended = true, own = Own#{status := <<"suspended">>}});
set_suspended(false, #state{own = Own} = State) ->
    publish([<<"resumed">>], State#state{suspended = false, own = Own#{status := <<"up">>}}).

%% Writes the registration in full and tells of it. While Redis is away nothing is lost: joining does the same.
publish(_Events, #state{joined = false} = State) ->
    State;
publish([<<"joined">>], #state{suspended = true} = State) ->
    publish([], State);
publish(Events, #state{own = #{node := Node} = Own} = State) ->
    Now = redis_ms(State),
    Messages = [key || not State#state.suspended]
        ++ [{event, redgrid_registration:encode_event(Event, Own, Node, Now)} || Event <- Events],
    ok = redgrid_redis:send(State#state.commands, registered,
                            redgrid_registration:register(scope(State), Own, Now, Messages)),
    State#state{last_announced = now_ms(), register = false, renew_at = now_ms() + ?RENEW}.

%% Every member answers a ping. However many come, a node answers once a second at most.
ping(#state{own_pings = Own} = State) when Own > 0 ->
    State#state{own_pings = Own - 1};
ping(#state{ping_timer = undefined} = State) ->
    Wait = max(0, State#state.last_announced + ?PING_GAP - now_ms()),
    State#state{ping_timer = erlang:send_after(Wait, self(), announce)};
ping(State) ->
    State.

announce(#state{suspended = true} = State) -> State;
announce(State) -> publish([], State).

renew(Now, #state{register = true} = State) ->
    publish([<<"joined">>], State#state{renew_at = Now + ?RENEW});
renew(Now, #state{own = #{node := Node}, renewals = Count} = State) ->
    Scope = scope(State),
    %% Every second time: the info, and the classic hash too while nobody needs it fresher.
    Second = Count rem 2 =:= 1,
    Classic = not State#state.suspended andalso (Second orelse redgrid_view:has_classic(State#state.view)),
    Commands = case Classic of
                   true -> redgrid_registration:renew_classic(Scope, Node, redis_ms(State));
                   false -> []
               end
        ++ case Second of
               true -> redgrid_registration:renew_info(Scope, Node);
               false -> []
           end,
    ok = redgrid_redis:send(State#state.commands, {renewed, now_ms()}, [["TIME"] | Commands]),
    State#state{renew_at = Now + ?RENEW, renewals = Count + 1}.

%%% Redis

connect(#state{config = #{redis := Address}} = State) ->
    {ok, Commands} = redgrid_redis:start_link(Address, self()),
    {ok, Channels} = redgrid_redis:start_link(Address, self()),
    Scope = scope(State),
    ok = redgrid_redis:subscribe(Channels, [redgrid_registration:channel(Scope),
                                            redgrid_registration:events_channel(Scope)]),
    State#state{commands = Commands, channels = Channels, ready = [], subscribed = 0}.

redis(up, Pid, #state{ready = Ready} = State) ->
    ask_time(State#state{ready = [Pid | Ready]});
redis({subscribed, _Channel}, _Pid, #state{subscribed = Count} = State) when Count < 2 ->
    ask_time(State#state{subscribed = Count + 1});
redis({message, Channel, Data}, _Pid, State) ->
    case redgrid_registration:channel(scope(State)) of
        Channel when Data =:= <<"ping">> -> ping(State);
        Channel -> announced(Data, State);
        _ -> told(Data, State)
    end;
redis({reply, Tag, Replies}, _Pid, State) ->
    reply(Tag, Replies, State);
redis(_Other, _Pid, State) ->
    State.

%% Both connections are ready and we hear the channels: nothing that follows is missed.
ask_time(#state{ready = [_, _], subscribed = 2, commands = Commands} = State) ->
    ok = redgrid_redis:send(Commands, {joining, now_ms()}, [["TIME"]]),
    State;
ask_time(State) ->
    State.

reply({joining, Asked}, [Reply], State) ->
    case offset(Reply, Asked) of
        {ok, Offset} -> join(State#state{offset = Offset});
        error ->
            %% Not allowed, or still loading: another connection, later, begins anew.
            lost({refused, case Reply of {error, Text} -> Text; _ -> <<"no time">> end}, State)
    end;
reply({renewed, Asked}, [Time | Replies], State) ->
    Next = case offset(Time, Asked) of
               {ok, Offset} -> State#state{offset = Offset};
               error -> State
           end,
    %% Replies to EXPIRE and ZADD: 0 of an EXPIRE means that the hash is gone, so Redis was emptied. ZADD gives 0 for a
    %% member that is there, so only the first of its pair counts.
    Gone = case Replies of
               [0 | _] -> true;
               [_, _, 0] -> true;
               _ -> false
           end,
    case Gone of
        true -> publish([<<"joined">>], Next);
        false -> refused(Replies, Next)
    end;
reply(registered, Replies, State) ->
    refused(Replies, State);
reply({look_up, Node, Why}, Replies, State) ->
    looked_up(Node, Why, Replies, State#state{look_ups = State#state.look_ups - 1});
reply(scan_lock, [<<"OK">>, _Holder], State) ->
    scan_page(<<"0">>, State);
reply(scan_lock, [_Held, Own], #state{own = #{node := Own}} = State) ->
    %% Ours already: most likely of an earlier life, that ended without knowing what we have to find out.
    scan_page(<<"0">>, State);
reply(scan_lock, Replies, State) ->
    Wait = case State#state.scanned of true -> ?SCAN; false -> ?SCAN_RETRY end,
    refused(Replies, State#state{scanning = false, scan_at = now_ms() + Wait});
reply(scan, [[Cursor, Keys]], State) when is_binary(Cursor), is_list(Keys) ->
    Found = lists:foldl(fun scanned/2, State, Keys),
    case Cursor of
        <<"0">> -> Found#state{scanning = false, scanned = true, scan_at = now_ms() + ?SCAN};
        _ -> scan_page(Cursor, Found)
    end;
reply(scan, Replies, State) ->
    refused(Replies, State#state{scanning = false, scan_at = now_ms() + ?SCAN});
reply(_Tag, Replies, State) ->
    refused(Replies, State).

%% The clock of Redis, as it was in the middle between question and answer.
offset([Seconds, Micros], Asked) when is_binary(Seconds), is_binary(Micros) ->
    try
        {ok, binary_to_integer(Seconds) * 1000 + binary_to_integer(Micros) div 1000 - (Asked + now_ms()) div 2}
    catch
        error:badarg -> error
    end;
offset(_Reply, _Asked) ->
    error.

%% A command was refused (read only, out of memory, no permission, ...): said once, and the registration is written
%% again at the next renewal.
refused(Replies, State) ->
    case [Text || {error, Text} <- lists:append([case R of L when is_list(L) -> L; _ -> [R] end || R <- Replies])] of
        [] -> State;
        [Text | _] ->
            Next = complain({refused, Text}, "redgrid: Redis at ~ts refuses a command: ~ts. This node stays up and tries "
                            "again; see that its user may run the commands of the mesh",
                            [where(State), redgrid_registration:printable(Text)], State),
            Next#state{register = true}
    end.

join(#state{own = Own} = State) ->
    Now = now_ms(),
    StartedAt = case Own of
                    #{started_at := 0} -> redis_ms(State);
                    #{started_at := Earlier} -> Earlier
                end,
    case State#state.trouble of
        undefined -> ok;
        _ -> ?LOG_NOTICE("redgrid: Redis at ~ts is back", [where(State)])
    end,
    Joined = publish([<<"joined">>],
                     State#state{own = Own#{started_at := StartedAt}, joined = true, trouble = undefined,
                                 backoff = ?BACKOFF_FIRST, scanning = false, scan_at = Now,
                                 view = redgrid_view:stale(Now, State#state.view)}),
    ok = redgrid_redis:send(Joined#state.commands, pinged,
                            [["PUBLISH", redgrid_registration:channel(scope(State)), "ping"]]),
    %% Who is connected without our having heard of it: perhaps a member that dialled us first.
    Connected = [atom_to_binary(Node, utf8) || Node <- erlang:nodes(connected)],
    lists:foldl(fun(Node, Acc) -> known_or_wanted(Node, Acc) end,
                Joined#state{own_pings = Joined#state.own_pings + 1}, Connected).

known_or_wanted(Node, #state{view = View} = State) ->
    case redgrid_view:find(Node, View) of
        {ok, _} -> State;
        error ->
            case redgrid_registration:valid_node(Node) of
                true -> want(Node, check, State);
                false -> State
            end
    end.

%% One of the two connections ended; the other is of no use alone.
lost(Reason, #state{commands = Commands, channels = Channels, asking = Asking} = State) ->
    lists:foreach(fun(Pid) -> unlink(Pid), redgrid_redis:stop(Pid), flush(Pid) end, [Commands, Channels]),
    lists:foreach(fun({_, From}) -> gen_server:reply(From, {error, not_found}) end, Asking),
    Why = case Reason of {shutdown, Inner} -> Inner; _ -> Reason end,
    case State#state.trouble of
        Why -> ok;
        _ -> ?LOG_WARNING("redgrid: no connection to Redis at ~ts: ~ts. This node keeps its last view and tries again",
                          [where(State), explain(Why)])
    end,
    Backoff = State#state.backoff,
    _ = erlang:send_after(Backoff div 2 + rand:uniform(Backoff div 2), self(), connect),
    State#state{commands = undefined, channels = undefined, ready = [], subscribed = 0, joined = false,
                own_pings = 0, scanning = false, wanted = #{}, look_ups = 0, asking = [], trouble = Why,
                backoff = min(2 * Backoff, ?BACKOFF_LAST)}.

flush(Pid) ->
    receive
        {'EXIT', Pid, _} -> flush(Pid);
        {redgrid_redis, Pid, _} -> flush(Pid)
    after 0 ->
        ok
    end.

explain({connect, econnrefused}) -> "nothing listens there; see REDIS_URL";
explain({connect, nxdomain}) -> "its host name is not known; see REDIS_URL";
explain({connect, Reason}) -> io_lib:format("connecting failed (~P); see REDIS_URL", [Reason, 10]);
explain({refused, Text}) -> ["it refuses us (", redgrid_registration:printable(Text), "); see user, password and database in REDIS_URL"];
explain({not_redis, _}) -> "what listens there does not speak as Redis does";
explain(closed) -> "it closed the connection";
explain(no_answer) -> "it does not answer";
explain(Reason) -> io_lib:format("~P", [Reason, 10]).

%%% The others

%% A message of the classic channel that is no ping: the key of a node that has just registered.
announced(Key, #state{own = #{node := Own}} = State) ->
    case redgrid_registration:node_of_key(scope(State), Key) of
        {ok, Own} -> State;
        {ok, Node} ->
            case redgrid_view:worth_a_look(Node, State#state.view) of
                true -> want(Node, published, State);
                false -> State
            end;
        bad_name -> bad_key(Key, State);
        other_scope -> State
    end.

bad_key(Key, State) ->
    complain({bad_key, erlang:phash2(Key)}, "redgrid: the key ~ts ends in no node name: ignored",
             [redgrid_registration:printable(Key)], State).

told(Data, #state{own = #{node := Own}} = State) ->
    case redgrid_registration:decode_event(Data) of
        {ok, #{node := Own}} -> State;
        {ok, #{node := Node, event := Name} = Event} ->
            ?LOG_DEBUG("redgrid: ~ts: ~ts", [Name, Node]),
            case redgrid_view:told(Event, is_connected(Node), now_ms(), State#state.view) of
                {look_up, View} -> want(Node, check, State#state{view = View});
                {Change, View} -> changed(Change, Node, State#state{view = View})
            end;
        error ->
            complain(bad_event, "redgrid: a message on the events channel is no event: ignored, like any others", [],
                     State)
    end.

want(Node, Why, #state{wanted = Wanted} = State) ->
    case Wanted of
        #{Node := published} -> State;
        #{Node := _} -> State#state{wanted = Wanted#{Node := Why}};
        _ when map_size(Wanted) >= ?MAX_WANTED -> State;
        _ -> State#state{wanted = Wanted#{Node => Why}}
    end.

pump(#state{joined = true, look_ups = Open, wanted = Wanted} = State)
  when Open < ?MAX_LOOK_UPS, map_size(Wanted) > 0 ->
    {Node, Why, _} = maps:next(maps:iterator(Wanted)),
    ok = redgrid_redis:send(State#state.commands, {look_up, Node, Why},
                            redgrid_registration:look_up(scope(State), Node)),
    pump(State#state{look_ups = Open + 1, wanted = maps:remove(Node, Wanted)});
pump(State) ->
    State.

looked_up(Node, Why, [Classic, Info, Pttl, Score], State) ->
    case redgrid_registration:of_redis(Node, Classic, Info) of
        {error, What} ->
            Told = complain({unreadable, Node}, "redgrid: ~ts cannot be a member: ~ts", [Node, What], State),
            looked_up(Node, Why, none, Told);
        none ->
            looked_up(Node, Why, none, State);
        {ok, Registration} ->
            looked_up(Node, Why, {registered, Registration, integer(Pttl), score(Score), is_connected(Node)}, State)
    end;
looked_up(Node, Why, Answer, #state{view = View} = State) when not is_list(Answer) ->
    Reason = case Why of published -> published; _ -> check end,
    {Change, Next} = redgrid_view:looked_up(Node, Reason, Answer, now_ms(), View),
    tell_others(Why, Change, Answer, answer_asking(Node, changed(Change, Node, State#state{view = Next})));
looked_up(Node, _Why, Replies, State) ->
    %% Fewer replies than commands: not sent, because too much was open. The next check asks again.
    answer_asking(Node, refused(Replies, State)).

%% What our scan found that we did not know, the others may not know either.
tell_others(scan, joined, {registered, Registration, _, _, _}, #state{own = #{node := Own}} = State) ->
    Event = redgrid_registration:encode_event(<<"joined">>, Registration, Own, redis_ms(State)),
    ok = redgrid_redis:send(State#state.commands, told,
                            [["PUBLISH", redgrid_registration:events_channel(scope(State)), Event]]),
    State;
tell_others(_Why, _Change, _Answer, State) ->
    State.

integer(Value) when is_integer(Value) -> Value;
integer(_Value) -> -1.

score(Text) when is_binary(Text), byte_size(Text) < 64 ->
    case string:to_float(<<Text/binary, ".0">>) of
        {Score, _} when is_float(Score) -> Score;
        _ -> 0.0
    end;
score(_Text) -> 0.0.

changed(none, _Node, State) -> State;
changed(left_out, Node, #state{view = View} = State) ->
    complain(left_out, "redgrid: the view is full: ~ts and others are left out (~b so far)",
             [Node, redgrid_view:left_out(View)], State);
changed(Change, Node, State) ->
    ?LOG_INFO("redgrid: ~ts: ~ts", [Node, Change]),
    soon(State).

%% Many changes come at once when a mesh gathers; going through the view once serves them all.
soon(#state{acting = true} = State) -> State;
soon(State) ->
    self() ! act,
    State#state{acting = true}.

scan_page(Cursor, State) ->
    ok = redgrid_redis:send(State#state.commands, scan,
                            [["SCAN", Cursor, "MATCH", redgrid_registration:scan_pattern(scope(State)),
                              "COUNT", 1000]]),
    State.

scanned(Key, #state{own = #{node := Own}} = State) when is_binary(Key) ->
    case redgrid_registration:node_of_key(scope(State), Key) of
        {ok, Own} -> State;
        {ok, Node} ->
            case redgrid_view:find(Node, State#state.view) of
                {ok, _} -> State;
                error -> want(Node, scan, State)
            end;
        bad_name -> bad_key(Key, State);
        other_scope -> State
    end;
scanned(_Key, State) ->
    State.

%%% Connections

node_up(Node, State) ->
    case redgrid_view:up(Node, now_ms(), State#state.view) of
        {known, View} -> State#state{view = View};
        {unknown, View} -> known_or_wanted(Node, State#state{view = View})
    end.

node_down(Node, Info, State) ->
    case redgrid_view:down(Node, now_ms(), rand:uniform(), State#state.view) of
        {known, View} ->
            ?LOG_INFO("redgrid: ~ts: the connection broke: ~P",
                      [Node, proplists:get_value(nodedown_reason, Info, unknown), 10]),
            soon(State#state{view = View});
        {unknown, View} -> State#state{view = View}
    end.

is_connected(Name) ->
    try
        lists:member(binary_to_existing_atom(Name, utf8), erlang:nodes(connected))
    catch
        error:badarg -> false
    end.

dial(Name, #state{dialling = Dialling, view = View} = State) ->
    case redgrid_view:find(Name, View) of
        {ok, Member} ->
            #{ip := Ip} = redgrid_view:registration(Member),
            case {is_connected(Name), redgrid_atoms:from_text(Name)} of
                %% Up before we knew of it as a member.
                {true, _} -> node_up(Name, State);
                {false, {ok, Node}} when map_size(Dialling) < ?MAX_DIALS ->
                    {Pid, Ref} = redgrid_dial:start(self(), Node, Name, Ip),
                    State#state{dialling = Dialling#{Ref => {Pid, Name}}};
                {false, {ok, _}} ->
                    State#state{view = redgrid_view:dial_failed(Name, now_ms(), 0.0, View)};
                {false, error} ->
                    complain(atoms, "redgrid: ~ts is not dialled: 10,000 node names were made already", [Name], State)
            end;
        error ->
            State
    end.

dialled(Ref, Result, #state{dialling = Dialling, view = View} = State) ->
    {{_Pid, Name}, Rest} = maps:take(Ref, Dialling),
    Next = State#state{dialling = Rest, view = redgrid_view:dial_failed(Name, now_ms(), rand:uniform(), View)},
    case Result of
        {dialled, {refused, Why}} ->
            complain({not_dialled, Name, Why}, "redgrid: ~ts is not dialled: ~ts", [Name, Why], Next);
        {dialled, How} ->
            ?LOG_DEBUG("redgrid: dialling ~ts: ~ts", [Name, How]),
            Next;
        _ ->
            Next
    end.

%%% The time

periodic(Now, #state{joined = true} = State) ->
    Renewed = case State#state.renew_at =< Now of
                  true -> renew(Now, State);
                  false -> State
              end,
    case Renewed of
        #state{scanning = false, scan_at = At, own = #{node := Own}} when At =< Now ->
            ok = redgrid_redis:send(Renewed#state.commands, scan_lock,
                                    [["SET", redgrid_registration:scan_key(scope(State)), Own, "NX", "PX", ?SCAN],
                                     ["GET", redgrid_registration:scan_key(scope(State))]]),
            Renewed#state{scanning = true};
        _ -> Renewed
    end;
periodic(_Now, State) ->
    State.

%% Looks up and dials whoever is due.
act(State) ->
    {LookUps, Dials, View} = redgrid_view:due(now_ms(), State#state.joined, State#state.view),
    Wanted = lists:foldl(fun(Node, Acc) -> want(Node, check, Acc) end, State#state{view = View}, LookUps),
    pump(lists:foldl(fun dial/2, Wanted, Dials)).

now_ms() -> erlang:monotonic_time(millisecond).

redis_ms(#state{offset = Offset}) -> now_ms() + Offset.

scope(#state{config = #{scope := Scope}}) -> Scope.

where(#state{config = #{redis := Address}}) -> redgrid_redis:where(Address).

%% Each trouble is said once: what is wrong in Redis stays wrong, and comes by again and again.
complain(What, Format, Args, #state{complaints = Complaints} = State) ->
    case Complaints of
        #{What := _} -> State;
        _ when map_size(Complaints) >= ?MAX_COMPLAINTS -> State;
        _ ->
            ?LOG_WARNING(Format, Args),
            State#state{complaints = Complaints#{What => []}}
    end.
