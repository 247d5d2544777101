%% @doc Connecting to a member: whether it may be dialled, and the dialling itself in a process of its own, because both a
%% name server and a silent host can take seconds.
%%
%% Erlang connects to the host part of a node's name. The contract is that the registered `ip' is dialled, so where the
%% host part is a name that does not lead to that address, it is entered into the host table of this Erlang node
%% (`inet_db', as the original did), for everything that runs in it.
-module(redgrid_dial).

-export([allowed/2, forbidden/1, proto/0, start/4, run/4]).
-export([host_book/0, remember_host/3]).
-export_type([book/0]).

-opaque book() :: #{string() => inet:ip4_address()}.

%% @doc Whether a node may be dialled at all, as far as its registration shows.
-spec allowed(redgrid_registration:registration(), Own :: binary()) ->
          ok | {refused, other_name_style | other_proto | no_port | forbidden_address}.
allowed(#{node := Node, ip := Ip} = Registration, Own) ->
    Literals = [Address || Text <- [Ip, redgrid_registration:host_of(Node)],
                           {ok, Address} <- [inet:parse_address(binary_to_list(Text))]],
    SameStyle = redgrid_registration:name_style(Node) =:= redgrid_registration:name_style(Own),
    case {SameStyle, same_proto(Registration), maps:get(port, Registration), lists:any(fun forbidden/1, Literals)} of
        {false, _, _, _} -> {refused, other_name_style};
        {_, false, _, _} -> {refused, other_proto};
        {_, _, 0, _} -> {refused, no_port};
        {_, _, _, true} -> {refused, forbidden_address};
        {true, true, _, false} -> ok
    end.

%% A member that speaks TLS where we do not, or the other way round, would only cost both a failed handshake. One of the
%% Erlang redgrid of 2011 does not tell.
same_proto(#{classic := true}) -> true;
same_proto(#{proto := Proto}) -> Proto =:= proto().

%% @doc What this Erlang node speaks to others: `-proto_dist'.
-spec proto() -> binary().
proto() ->
    case init:get_argument(proto_dist) of
        {ok, [["inet_tls"] | _]} -> <<"tls">>;
        {ok, [["inet6_tls"] | _]} -> <<"tls">>;
        _ -> <<"tcp">>
    end.

%% @doc Addresses that lead to no host in particular: unspecified, multicast, broadcast, link-local.
-spec forbidden(inet:ip_address()) -> boolean().
forbidden({0, _, _, _}) -> true;
forbidden({169, 254, _, _}) -> true;
forbidden({A, _, _, _}) -> A >= 224;
forbidden({0, 0, 0, 0, 0, 0, 0, 0}) -> true;
forbidden({0, 0, 0, 0, 0, 16#ffff, High, Low}) -> forbidden({High bsr 8, High band 255, Low bsr 8, Low band 255});
forbidden({A, _, _, _, _, _, _, _}) -> A >= 16#ff00 orelse A band 16#ffc0 =:= 16#fe80.

%% @doc Dials in a new process, which ends with `{dialled, connected | failed | {refused, Why}}'. When a host has to be
%% entered into the host table, it asks `Server' to, by the call `{remember_host, Host, Address}'.
-spec start(pid(), node(), binary(), binary()) -> {pid(), reference()}.
start(Server, Node, Name, Ip) ->
    spawn_monitor(?MODULE, run, [Server, Node, Name, Ip]).

%% @private
-spec run(pid(), node(), binary(), binary()) -> no_return().
run(Server, Node, Name, Ip) ->
    exit({dialled, dial(Server, Node, Name, Ip)}).

dial(Server, Node, Name, Ip) ->
    Host = binary_to_list(redgrid_registration:host_of(Name)),
    case inet:getaddr(binary_to_list(Ip), inet) of
        {ok, Address} ->
            case forbidden(Address) of
                true -> {refused, forbidden_address};
                false ->
                    ok = lead_to(Server, Host, Address),
                    connect(Node)
            end;
        {error, _} ->
            {refused, bad_ip}
    end.

connect(Node) ->
    case net_kernel:connect_node(Node) of
        true -> connected;
        _ -> failed
    end.

lead_to(Server, Host, Address) ->
    case inet:parse_address(Host) of
        {ok, _} -> ok;
        {error, _} ->
            case inet:getaddr(Host, inet) of
                {ok, Address} -> ok;
                _ -> gen_server:call(Server, {remember_host, Host, Address})
            end
    end.

%% @doc No hosts entered yet.
-spec host_book() -> book().
host_book() -> #{}.

%% @doc Enters a host. The table has one entry for an address, with all its names, so the names that were entered earlier
%% are given again.
-spec remember_host(string(), inet:ip4_address(), book()) -> book().
remember_host("localhost", _Address, Book) ->
    Book;
remember_host(Host, Address, Book) ->
    Lookup = inet_db:res_option(lookup),
    case lists:member(file, Lookup) of
        true -> ok;
        false -> ok = inet_db:set_lookup([file | Lookup])
    end,
    Next = Book#{Host => Address},
    case Book of
        #{Host := Old} when Old =/= Address -> enter(Old, Next);
        _ -> ok
    end,
    enter(Address, Next),
    Next.

enter(Address, Book) ->
    case [Host || {Host, At} <- maps:to_list(Book), At =:= Address] of
        [] -> inet_db:del_host(Address);
        Hosts -> inet_db:add_host(Address, Hosts)
    end.
