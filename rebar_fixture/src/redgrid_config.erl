%% @doc The settings: the application environment first, then the environment of the operating system, then the default.
%%
%% ```
%% redis_url  REDIS_URL  redis://127.0.0.1:6379/
%% local_ip   LOCAL_IP   the host part of the node's name, resolved
%% domain     DOMAIN     empty
%% version    VERSION    empty
%% loglevel   LOGLEVEL   what the logger is set to; debug info warning error fatal, or 0 to 4
%% meta                  []
%% local_ip6             none
%% '''
-module(redgrid_config).

-include_lib("kernel/include/logger.hrl").

-export([read/0, meta/0]).
-export_type([config/0]).

-type config() :: #{redis := redgrid_redis:address(), ip := binary(), ip6 := binary(),
                    scope := redgrid_registration:scope()}.

%% @doc The meta that the node starts with.
-spec meta() -> term().
meta() ->
    application:get_env(redgrid, meta, []).

%% @doc Reads and checks the settings. An error names the setting and the mend.
-spec read() -> {ok, config()} | {error, {bad_config, atom(), string()}}.
read() ->
    try
        log_level(setting(loglevel, "LOGLEVEL", undefined)),
        {ok, #{redis => redis(text(redis_url, setting(redis_url, "REDIS_URL", "redis://127.0.0.1:6379/"))),
               ip => ip(setting(local_ip, "LOCAL_IP", undefined)),
               ip6 => text(local_ip6, setting(local_ip6, "LOCAL_IP6", "")),
               scope => {text(domain, setting(domain, "DOMAIN", "")), text(version, setting(version, "VERSION", ""))}}}
    catch
        throw:{bad_config, Name, Why} -> {error, {bad_config, Name, Why}}
    end.

setting(Name, Variable, Default) ->
    case application:get_env(redgrid, Name) of
        {ok, Value} when Value =/= undefined -> Value;
        _ ->
            case os:getenv(Variable) of
                false -> Default;
                "" -> Default;
                Value -> Value
            end
    end.

text(Name, Value) when is_list(Value); is_binary(Value) ->
    try unicode:characters_to_binary(Value) of
        Text when is_binary(Text) -> Text;
        _ -> throw({bad_config, Name, "it must be a string"})
    catch
        error:badarg -> throw({bad_config, Name, "it must be a string"})
    end;
text(Name, _Value) ->
    throw({bad_config, Name, "it must be a string"}).

redis(Url) ->
    case redgrid_redis:parse_url(Url) of
        {ok, Address} -> Address;
        {error, Why} -> throw({bad_config, redis_url, Why})
    end.

%% The address that others reach this node at. A wrong guess here would split the mesh silently, so nothing is guessed.
ip(undefined) ->
    Host = binary_to_list(redgrid_registration:host_of(atom_to_binary(node(), utf8))),
    case inet:getaddr(Host, inet) of
        {ok, Address} -> list_to_binary(inet:ntoa(Address));
        {error, _} ->
            throw({bad_config, local_ip, "the host " ++ Host ++ " of the node's name has no IPv4 address: set local_ip "
                   "(LOCAL_IP) to the address that the other nodes reach this one at"})
    end;
ip({_, _, _, _} = Address) ->
    case inet:ntoa(Address) of
        {error, einval} -> throw({bad_config, local_ip, "it is no IPv4 address"});
        Text -> list_to_binary(Text)
    end;
ip(Value) ->
    Text = text(local_ip, Value),
    case inet:getaddr(binary_to_list(Text), inet) of
        {ok, {127, _, _, _}} -> loopback(Text);
        {ok, _} -> Text;
        {error, _} ->
            throw({bad_config, local_ip, binary_to_list(Text) ++ " is no IPv4 address, and no name of one"})
    end.

loopback(Ip) ->
    Host = binary_to_list(redgrid_registration:host_of(atom_to_binary(node(), utf8))),
    case inet:getaddr(Host, inet) of
        {ok, {127, _, _, _}} -> ok;
        _ -> ?LOG_WARNING("redgrid: local_ip ~ts is a loopback address, but the host of the node's name (~ts) is "
                            "none: nodes on other machines cannot reach this one. Set LOCAL_IP to its address there",
                            [Ip, Host])
    end,
    Ip.

log_level(undefined) -> ok;
log_level(Value) ->
    Levels = #{"0" => debug, "debug" => debug, "1" => info, "info" => info, "2" => warning, "warning" => warning,
               "3" => error, "error" => error, "4" => critical, "fatal" => critical},
    case Levels of
        #{} when is_map_key(Value, Levels) -> set_level(map_get(Value, Levels));
        _ when is_integer(Value) -> log_level(integer_to_list(Value));
        _ when is_atom(Value) -> log_level(atom_to_list(Value));
        _ when is_binary(Value) -> log_level(binary_to_list(Value));
        _ -> ?LOG_WARNING("redgrid: loglevel is none of debug info warning error fatal, or 0 to 4: ignored")
    end.

set_level(Level) ->
    case logger:set_application_level(redgrid, Level) of
        ok -> ok;
        %% Started outside its application: there are no modules to set a level for.
        {error, _} -> ok
    end.
