%% @doc What this node knows of the others. Pure: what is heard and the time go in, the new view comes out.
%%
%% ```
%%            registered                nodeup
%%   unknown ────────────► new ───────────────────► up
%%      ▲                   │ ▲                      │ nodedown
%%      │ registration ends │ │ renewed after        ▼
%%      ├───────────────────┘ └──── the break ────  down   (not listed)
%%      └─────────────────────────────────────────── │ registration ends
%% '''
%%
%% `new' and `up' are listed, unless the status is `suspended'. A member whose connection broke is `down': its hash in
%% Redis lives on for up to a minute, so being registered proves nothing any more. Only a renewal after the break does:
%% its key was published, or it told of itself, or the `PTTL' of its hash or its score in the index have grown since the
%% look-up that was made at the break. A member says `left' itself; then it is forgotten whatever the connection does.
%%
%% All times are milliseconds of the monotonic clock, given by the caller; `Jitter' is a random number within 0 and 1.
-module(redgrid_view).

-export([new/1, new/2, looked_up/5, told/4, up/3, down/4, stale/2, due/3, dial_failed/4, worth_a_look/2]).
-export([find/2, members/1, has_classic/1, left_out/1]).
-export([listed/1, registration/1, connected/1, state/1, since/1, heard/1]).
-export_type([view/0, member/0, change/0, answer/0]).

-define(MAX_MEMBERS, 20000).
-define(DOWN_CHECK, 5000).
-define(CLASSIC_CHECK, 30000).
-define(EXPIRY, 60000).
-define(DIAL_FIRST, 1000).
-define(DIAL_LAST, 30000).

-record(member, {registration :: redgrid_registration:registration(),
                 state :: new | up | down,
                 since :: integer(),
                 heard :: integer(),
                 %% PTTL and score right after the break; undefined until that look-up is back.
                 baseline :: undefined | {integer(), float()},
                 next_check :: integer() | infinity,
                 next_dial :: integer() | infinity,
                 backoff = ?DIAL_FIRST :: pos_integer(),
                 %% Changes may have been missed: the next announcement of its key is worth a look.
                 stale = false :: boolean()}).

-record(view, {own :: binary(),
               max :: pos_integer(),
               members = #{} :: #{binary() => #member{}},
               left_out = 0 :: non_neg_integer()}).

-opaque member() :: #member{}.
-opaque view() :: #view{}.
-type change() :: none | joined | meta | suspended | resumed | left | left_out.
-type answer() :: none | {registered, redgrid_registration:registration(), Pttl :: integer(), Score :: float(),
                          Connected :: boolean()}.

%% @equiv new(Own, 20000)
-spec new(binary()) -> view().
new(Own) -> new(Own, ?MAX_MEMBERS).

%% @doc The empty view of a node, for at most `Max' members.
-spec new(binary(), pos_integer()) -> view().
new(Own, Max) -> #view{own = Own, max = Max}.

%% @doc A look-up in Redis has an answer. `published': it was made because the member's key was published.
-spec looked_up(binary(), published | check, answer(), integer(), view()) -> {change(), view()}.
looked_up(Node, _Why, none, Now, View) ->
    case find(Node, View) of
        %% Redis may have been emptied: while the connection stands, the last that was known stays.
        {ok, #member{state = up, registration = #{status := Status}} = Member} when Status =/= <<"suspended">> ->
            {none, put(Node, Member#member{next_check = next_check(Member, Now), stale = false}, View)};
        {ok, _} -> {left, remove(Node, View)};
        error -> {none, View}
    end;
looked_up(Node, Why, {registered, Registration, Pttl, Score, Connected}, Now, View) ->
    case find(Node, View) of
        {ok, #member{state = down, baseline = Baseline} = Member} ->
            case Why =:= published orelse renewed(Baseline, {Pttl, Score}) of
                true -> back(Node, Registration, Pttl, Now, View);
                false ->
                    First = case Baseline of undefined -> {Pttl, Score}; _ -> Baseline end,
                    {none, put(Node, Member#member{baseline = First, next_check = Now + ?DOWN_CHECK}, View)}
            end;
        {ok, Member} ->
            update(Node, Member, Registration, Pttl, Now, View);
        error ->
            insert(Node, Registration, Pttl, Connected, Now, View)
    end.

renewed(undefined, _Seen) -> false;
renewed({Pttl, Score}, {SeenPttl, SeenScore}) -> SeenPttl > Pttl orelse SeenScore > Score.

%% @doc An events message. `look_up': it is not to be believed or not complete, so Redis has to be asked.
-spec told(redgrid_registration:event(), Connected :: boolean(), integer(), view()) ->
          {change() | look_up, view()}.
told(#{node := Node, by := By, event := Event, registration := Registration}, Connected, Now, View) ->
    Known = find(Node, View),
    Itself = By =:= Node,
    case lists:member(Event, [<<"joined">>, <<"meta">>, <<"resumed">>, <<"suspended">>]) of
        true when Itself -> told_itself(Node, Known, Registration, Connected, Now, View);
        %% Found by another's scan: news only for who does not know the member.
        true when Known =:= error -> {look_up, View};
        true -> {none, View};
        false when Event =:= <<"left">> -> told_left(Node, Known, Itself, Registration, View);
        false -> {none, View}
    end.

told_itself(_Node, _Known, #{ip := <<>>, status := Status}, _Connected, _Now, View) when Status =/= <<"suspended">> ->
    {look_up, View};
told_itself(Node, error, Registration, Connected, Now, View) ->
    insert(Node, Registration, ?EXPIRY, Connected, Now, View);
told_itself(Node, {ok, #member{state = down}}, Registration, _Connected, Now, View) ->
    back(Node, Registration, ?EXPIRY, Now, View);
told_itself(Node, {ok, Member}, Registration, _Connected, Now, View) ->
    update(Node, Member, Registration, ?EXPIRY, Now, View).

told_left(_Node, error, _Itself, _Registration, View) ->
    {none, View};
told_left(_Node, _Known, false, _Registration, View) ->
    {look_up, View};
told_left(Node, {ok, #member{registration = #{creation := Known}}}, true, #{creation := Gone}, View)
  when Known =:= Gone; Known =:= 0; Gone =:= 0 ->
    {left, remove(Node, View)};
told_left(_Node, _Known, true, _Registration, View) ->
    %% An earlier life ended; the present one has registered already.
    {none, View}.

insert(Node, Registration, Pttl, Connected, Now, #view{members = Members, max = Max} = View) ->
    case map_size(Members) < Max of
        true ->
            State = case Connected of true -> up; false -> new end,
            Member = #member{registration = Registration, state = State, since = Now, heard = Now,
                             next_check = infinity, next_dial = first_dial(Registration, Now, View)},
            {joined, put(Node, Member#member{next_check = next_check(Member, Now, Pttl)}, View)};
        false ->
            {left_out, View#view{left_out = View#view.left_out + 1}}
    end.

back(Node, Registration, Pttl, Now, View) ->
    Member = #member{registration = Registration, state = new, since = Now, heard = Now, next_check = infinity,
                     next_dial = first_dial(Registration, Now, View)},
    {joined, put(Node, Member#member{next_check = next_check(Member, Now, Pttl)}, View)}.

update(Node, #member{registration = Old, next_dial = Dial} = Member, Registration, Pttl, Now, View) ->
    %% Another address or another life: what failed so far says nothing about it.
    Moved = maps:with([ip, port, creation], Old) =/= maps:with([ip, port, creation], Registration),
    Updated = Member#member{registration = Registration, heard = Now, stale = false},
    Next = Updated#member{next_check = next_check(Updated, Now, Pttl),
                          next_dial = case Moved of true -> first_dial(Registration, Now, View); false -> Dial end},
    {change(Old, Registration), put(Node, Next, View)}.

change(#{status := <<"suspended">>}, #{status := <<"suspended">>}) -> none;
change(_Old, #{status := <<"suspended">>}) -> suspended;
change(#{status := <<"suspended">>}, _New) -> resumed;
change(#{meta := Meta, ip := Ip, status := Status}, #{meta := Meta, ip := Ip, status := Status}) -> none;
change(_Old, _New) -> meta.

%% When Redis has to be asked about a member of its own accord. Connected members tell their changes themselves, save
%% those of the dialect that never publishes.
next_check(Member, Now) -> next_check(Member, Now, ?EXPIRY).

next_check(#member{registration = #{classic := true}}, Now, Pttl) when Pttl >= 0 ->
    Now + min(Pttl + 1000, ?CLASSIC_CHECK);
next_check(#member{registration = #{classic := true}}, Now, _NoExpiry) -> Now + ?CLASSIC_CHECK;
next_check(#member{registration = #{status := <<"suspended">>}}, Now, _Pttl) -> Now + ?EXPIRY;
next_check(#member{state = up}, _Now, _Pttl) -> infinity;
next_check(#member{state = new}, Now, Pttl) when Pttl >= 0 -> Now + Pttl + 1000;
next_check(#member{state = new}, Now, _NoExpiry) -> Now + ?EXPIRY.

first_dial(Registration, Now, View) ->
    case redgrid_dial:allowed(Registration, View#view.own) of
        ok -> Now;
        {refused, _} -> infinity
    end.

%% @doc A connection is up. `unknown': nobody has told of that node.
-spec up(binary(), integer(), view()) -> {known | unknown, view()}.
up(Node, Now, View) ->
    case find(Node, View) of
        {ok, #member{state = up}} -> {known, View};
        {ok, Member} ->
            Up = Member#member{state = up, since = Now, baseline = undefined, backoff = ?DIAL_FIRST},
            {known, put(Node, Up#member{next_check = next_check(Up, Now)}, View)};
        error -> {unknown, View}
    end.

%% @doc A connection broke. Its member is out at once, and is looked up and dialled again soon.
-spec down(binary(), integer(), float(), view()) -> {known | unknown, view()}.
down(Node, Now, Jitter, View) ->
    case find(Node, View) of
        {ok, #member{state = up, registration = Registration} = Member} ->
            Dial = case first_dial(Registration, Now, View) of
                       infinity -> infinity;
                       _ -> Now + ?DIAL_FIRST + round(Jitter * ?DIAL_FIRST)
                   end,
            {known, put(Node, Member#member{state = down, since = Now, baseline = undefined, next_check = Now,
                                            next_dial = Dial, backoff = ?DIAL_FIRST}, View)};
        {ok, _} -> {known, View};
        error -> {unknown, View}
    end.

%% @doc Redis was away: everything is to be looked up again.
-spec stale(integer(), view()) -> view().
stale(Now, #view{members = Members} = View) ->
    View#view{members = maps:map(fun(_, Member) -> Member#member{stale = true, next_check = Now} end, Members)}.

%% @doc Whom to look up and whom to dial now. Look-ups are asked for only while Redis is there; who is dialled is not due
%% again before {@link dial_failed/4}.
-spec due(integer(), boolean(), view()) -> {LookUps :: [binary()], Dials :: [binary()], view()}.
due(Now, Redis, #view{members = Members} = View) ->
    maps:fold(
      fun(Node, Member, {Checks, Dials, Acc}) ->
              Check = Redis andalso Member#member.next_check =< Now,
              Dial = Member#member.state =/= up andalso Member#member.next_dial =< Now
                  andalso not suspended(Member),
              case {Check, Dial} of
                  {false, false} -> {Checks, Dials, Acc};
                  _ ->
                      Next = Member#member{
                               next_check = case Check of true -> Now + ?DOWN_CHECK; false -> Member#member.next_check end,
                               next_dial = case Dial of true -> infinity; false -> Member#member.next_dial end},
                      {[Node || Check] ++ Checks, [Node || Dial] ++ Dials, put(Node, Next, Acc)}
              end
      end, {[], [], View}, Members).

%% @doc An attempt to connect has ended; if without success, the next comes after 1 s, 2 s, ... 30 s.
-spec dial_failed(binary(), integer(), float(), view()) -> view().
dial_failed(Node, Now, Jitter, View) ->
    case find(Node, View) of
        {ok, #member{backoff = Backoff} = Member} ->
            Wait = Backoff div 2 + round(Jitter * Backoff),
            put(Node, Member#member{next_dial = Now + Wait, backoff = min(Backoff * 2, ?DIAL_LAST)}, View);
        error -> View
    end.

%% @doc Whether an announcement of a member's key needs a look-up. A connected member that has info tells its changes on
%% the events channel, with everything in it.
-spec worth_a_look(binary(), view()) -> boolean().
worth_a_look(Node, View) ->
    case find(Node, View) of
        {ok, #member{state = up, stale = false, registration = #{classic := false, status := <<"up">>}}} -> false;
        _ -> true
    end.

%% @doc A member by name.
-spec find(binary(), view()) -> {ok, member()} | error.
find(Node, #view{members = Members}) -> maps:find(Node, Members).

put(Node, Member, #view{members = Members} = View) -> View#view{members = Members#{Node => Member}}.
remove(Node, #view{members = Members} = View) -> View#view{members = maps:remove(Node, Members)}.

%% @doc All members by name, listed or not.
-spec members(view()) -> [{binary(), member()}].
members(#view{members = Members}) -> lists:sort(maps:to_list(Members)).

%% @doc Whether a member of the library of 2013 is known. It needs to see the classic hash renewed more often.
-spec has_classic(view()) -> boolean().
has_classic(#view{members = Members}) ->
    lists:any(fun(#member{registration = #{classic := Classic}}) -> Classic end, maps:values(Members)).

%% @doc How often a member was left out because the view was full.
-spec left_out(view()) -> non_neg_integer().
left_out(#view{left_out = Count}) -> Count.

%% @doc Whether a member belongs into `redgrid:nodes()'.
-spec listed(member()) -> boolean().
listed(#member{state = State} = Member) -> State =/= down andalso not suspended(Member).

suspended(#member{registration = #{status := Status}}) -> Status =:= <<"suspended">>.

%% @doc What Redis last told of a member.
-spec registration(member()) -> redgrid_registration:registration().
registration(#member{registration = Registration}) -> Registration.

%% @doc Whether there is a connection to it.
-spec connected(member()) -> boolean().
connected(#member{state = State}) -> State =:= up.

%% @doc In which state it is: `new' (registered, not connected yet), `up' or `down'.
-spec state(member()) -> new | up | down.
state(#member{state = State}) -> State.

%% @doc Since when it is in that state.
-spec since(member()) -> integer().
since(#member{since = Since}) -> Since.

%% @doc When it was last heard of.
-spec heard(member()) -> integer().
heard(#member{heard = Heard}) -> Heard.
