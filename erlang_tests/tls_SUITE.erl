%% The distribution inside TLS (`-proto_dist inet_tls`), in both directions, and what can be wrong with a certificate.
-module(tls_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").
-include_lib("public_key/include/public_key.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([an_erlang_node_connects_inside_tls/1,
         a_rust_node_connects_inside_tls/1,
         each_version_of_tls_is_spoken_in_both_directions/1,
         a_large_message_crosses_tls_in_both_directions/1,
         a_node_that_is_killed_is_down_at_once/1,
         a_certificate_of_another_authority_is_refused_in_both_directions/1,
         an_expired_certificate_is_refused_in_both_directions/1,
         a_certificate_for_another_host_is_refused_in_both_directions/1,
         a_peer_without_a_certificate_is_refused/1,
         an_erlang_node_that_refuses_our_certificate_is_told_of/1,
         a_plain_erlang_node_is_told_apart_in_both_directions/1,
         a_plain_rust_node_tells_who_speaks_tls/1]).

suite() -> [{timetrap, {minutes, 2}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) ->
    Root = authority(),
    [{root, Root}, {rust, rust:start(rust, #{args => ["--echo" | flags(identity(Root))]})} | Config].

end_per_suite(_) -> grid:stop_since([]).

init_per_testcase(_, Config) -> [{running, grid:running()} | Config].

end_per_testcase(_, Config) -> grid:stop_since(?config(running, Config)).

%% ---------------------------------------------------------------- certificates

-define(KEY, {key, {rsa, 2048, 65537}}).
-define(DIGEST, {digest, sha256}).

authority() ->
    #{cert := Cert, key := Key} = Root = public_key:pkix_test_root_cert("redgrid tests", [?KEY, ?DIGEST]),
    Root#{cert := well_formed(Cert, Key)}.

%% The test certificates of OTP 29 leave out the parameters of an RSA key, which are to be NULL.
well_formed(Cert, IssuerKey) ->
    #'OTPCertificate'{tbsCertificate = Told} = public_key:pkix_decode_cert(Cert, otp),
    #'OTPTBSCertificate'{subjectPublicKeyInfo = Info} = Told,
    #'OTPSubjectPublicKeyInfo'{algorithm = Algorithm} = Info,
    Whole = Info#'OTPSubjectPublicKeyInfo'{algorithm = Algorithm#'PublicKeyAlgorithm'{parameters = 'NULL'}},
    public_key:pkix_sign(Told#'OTPTBSCertificate'{subjectPublicKeyInfo = Whole}, IssuerKey).

identity(Root) -> identity(Root, []).

%% A certificate for nodes on 127.0.0.1, its key, and whom it trusts, as PEM. OTP looks for the text of an address among
%% the names, everybody else among the addresses.
identity(Root, Flaws) ->
    Names = case lists:member(elsewhere, Flaws) of
                true -> [{dNSName, "elsewhere.example"}];
                false -> [{dNSName, "127.0.0.1"}, {iPAddress, <<127, 0, 0, 1>>}]
            end,
    Extension = #'Extension'{extnID = ?'id-ce-subjectAltName', extnValue = Names, critical = false},
    Validity = [{validity, {{2001, 1, 1}, {2002, 1, 1}}} || lists:member(expired, Flaws)],
    Chain = #{root => Root, intermediates => [], peer => [?KEY, ?DIGEST, {extensions, [Extension]} | Validity]},
    #{server_config := Made} = public_key:pkix_test_data(#{server_chain => Chain, client_chain => Chain}),
    {KeyType, Key} = proplists:get_value(key, Made),
    Cert = well_formed(proplists:get_value(cert, Made), maps:get(key, Root)),
    #{cert => pem('Certificate', Cert), key => pem(KeyType, Key), ca => ca(Root)}.

ca(#{cert := Der}) -> pem('Certificate', Der).

pem(Type, Der) -> public_key:pem_encode([{Type, Der, not_encrypted}]).

%% ---------------------------------------------------------------- nodes with them

flags(#{cert := Cert, key := Key, ca := Ca}) ->
    ["--tls-cert", host_file(Cert), "--tls-key", host_file(Key), "--tls-ca", host_file(Ca)].

host_file(Bytes) ->
    {ok, Path} = launch:file("tls-" ++ unique() ++ ".pem", 8#400, Bytes),
    Path.

unique() -> integer_to_list(erlang:unique_integer([positive])).

%% An erl that verifies in both directions; `More` goes to both sides.
beam(Config, Name, Identity) -> beam(Config, Name, Identity, []).

beam(Config, Name, #{cert := Cert, key := Key, ca := Ca}, More) ->
    Own = [{certfile, file(Config, Cert)}, {keyfile, file(Config, Key)}, {cacertfile, file(Config, Ca)} | More],
    Server = [{verify, verify_peer}, {fail_if_no_peer_cert, true} | Own],
    tls_peer(Config, Name, [{server, Server}, {client, [{verify, verify_peer} | Own]}]).

tls_peer(Config, Name, Options) ->
    Optfile = file(Config, io_lib:format("~p.~n", [Options])),
    grid:peer(Name, #{args => ["-proto_dist", "inet_tls", "-ssl_dist_optfile", Optfile]}).

file(Config, Bytes) ->
    Path = filename:join(?config(priv_dir, Config), "tls-" ++ unique()),
    ok = file:write_file(Path, Bytes),
    Path.

ping(Beam) -> grid:call(Beam, net_adm, ping, ['rust@127.0.0.1']).

%% A short-lived Rust node dials the Erlang one.
dial(#{node := Node}, Flags) -> rust:run(["call", atom_to_list(Node), "erlang", "node" | Flags]).

refused(Beam, Flags, Words) ->
    {1, Text} = dial(Beam, Flags),
    [?assertMatch({match, _}, re:run(Text, Word), Text) || Word <- Words],
    ok.

%% The Rust node of the suite says why it refuses whoever comes.
says_of(Config, Beam, Regex) ->
    Rust = ?config(rust, Config),
    Before = rust:said(Rust, Regex),
    ?assertEqual(pang, ping(Beam)),
    grid:eventually(Before + 1, fun() -> rust:said(Rust, Regex) end).

root(Config) -> ?config(root, Config).

good(Config) -> identity(root(Config)).

%% ---------------------------------------------------------------- it works

an_erlang_node_connects_inside_tls(Config) ->
    Beam = beam(Config, beam, good(Config)),
    ?assertEqual(pong, ping(Beam)),
    ?assertEqual(['rust@127.0.0.1'], grid:call(Beam, erlang, nodes, [])),
    ?assertEqual({a, "b"}, grid:call(Beam, rpc, call, ['rust@127.0.0.1', echo, echo, [{a, "b"}]])).

a_rust_node_connects_inside_tls(Config) ->
    Beam = beam(Config, beam, good(Config)),
    ?assertEqual({0, "'beam@127.0.0.1'"}, dial(Beam, flags(good(Config)))).

each_version_of_tls_is_spoken_in_both_directions(Config) ->
    [begin
         Beam = beam(Config, beam, good(Config), [{versions, [Version]}]),
         ?assertEqual({Version, pong}, {Version, ping(Beam)}),
         ?assertEqual({0, "'beam@127.0.0.1'"}, dial(Beam, flags(good(Config)))),
         grid:stop(Beam)
     end || Version <- ['tlsv1.3', 'tlsv1.2']].

a_large_message_crosses_tls_in_both_directions(Config) ->
    Beam = beam(Config, beam, good(Config)),
    ?assert(grid:on(Beam, fun() ->
                                  Large = binary:copy(<<7, 8>>, 4 bsl 20),
                                  Large =:= rpc:call('rust@127.0.0.1', echo, echo, [Large])
                          end)).

a_node_that_is_killed_is_down_at_once(Config) ->
    Doomed = rust:start(doomed, #{args => flags(good(Config))}),
    Beam = beam(Config, beam, good(Config)),
    ?assert(grid:call(Beam, net_kernel, connect_node, ['doomed@127.0.0.1'])),
    rust:kill(Doomed),
    grid:eventually([], fun() -> grid:call(Beam, erlang, nodes, []) end).

%% ---------------------------------------------------------------- what is wrong is said

%% Theirs is wrong and they find nothing wrong with ours: it is the Rust side that refuses.
wrong(Config, Identity, Word) ->
    Beam = beam(Config, beam, Identity),
    says_of(Config, Beam, ["WARN.*a connection was refused.*", Word]),
    refused(Beam, flags(good(Config)), ["no TLS with beam@127.0.0.1", Word]).

a_certificate_of_another_authority_is_refused_in_both_directions(Config) ->
    Theirs = identity(authority()),
    wrong(Config, Theirs#{ca := ca(root(Config))}, "not signed by any authority in --tls-ca").

an_expired_certificate_is_refused_in_both_directions(Config) ->
    wrong(Config, identity(root(Config), [expired]), "has expired").

a_certificate_for_another_host_is_refused_in_both_directions(Config) ->
    Elsewhere = identity(root(Config), [elsewhere]),
    wrong(Config, Elsewhere, "not for 127.0.0.1 but for .*elsewhere.example"),
    %% As it is meant for clusters where the names do not matter.
    Beam = beam(Config, lax, Elsewhere),
    ?assertEqual({0, "'lax@127.0.0.1'"}, dial(Beam, ["--tls-verify", "peer" | flags(good(Config))])).

a_peer_without_a_certificate_is_refused(Config) ->
    Server = [{certfile, file(Config, maps:get(cert, good(Config)))}],
    Beam = tls_peer(Config, stranger, [{server, Server}, {client, [{verify, verify_none}]}]),
    says_of(Config, Beam, "it presented no certificate").

an_erlang_node_that_refuses_our_certificate_is_told_of(Config) ->
    Theirs = beam(Config, beam, good(Config)),
    Ours = identity(authority()),
    refused(Theirs, flags(Ours#{ca := ca(root(Config))}), ["no TLS with beam@127.0.0.1", "authority"]),
    refused(Theirs, flags(identity(root(Config), [expired])), ["no TLS with beam@127.0.0.1", "expired"]),
    refused(Theirs, ["--tls-ca", host_file(ca(root(Config)))], ["no TLS with beam@127.0.0.1", "certificate"]).

a_plain_erlang_node_is_told_apart_in_both_directions(Config) ->
    Plain = grid:peer(plain),
    says_of(Config, Plain, "it speaks no TLS"),
    refused(Plain, ["--timeout", "15" | flags(good(Config))], ["most likely it speaks no TLS"]).

a_plain_rust_node_tells_who_speaks_tls(Config) ->
    Rust = rust:start(plain, #{}),
    Beam = beam(Config, beam, good(Config)),
    ?assertEqual(pang, grid:call(Beam, net_adm, ping, ['plain@127.0.0.1'])),
    rust:saying(Rust, "a connection was refused: it speaks TLS and this node does not"),
    refused(Beam, [], ["no TLS with beam@127.0.0.1", "it speaks TLS and this node does not"]).
