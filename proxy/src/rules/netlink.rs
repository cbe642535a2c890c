//! The wanted table as netlink messages: one batch, which the kernel takes whole or not at all.
//!
//! Conditions become the kernel's expressions by way of [`Expression`], which is also what is read
//! back, so that `check` compares like with like. It opens no socket.
//!
//! Byte order: marks and ids in the machine's, addresses, ports and all attribute numbers in the
//! network's; interface names as 16 bytes.

use super::settings::Bypass;
use super::table::{Chain, Family, Match, Rule, Set, SetKind, Side, Table, Verdict};
use crate::metrics::Direction;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, Immediate,
    InetHookNumber, ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
    RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementFlags, SetElementList,
    SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage, Verdict as Code, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

/// Our table, in the family `inet`.
pub(super) const TABLE: &str = "weft";

/// Where destination NAT stands among the hooks.
pub(super) const PRIORITY: i32 = -100;

/// The kind of chain in which connections can be redirected.
pub(super) const CHAIN_TYPE: &str = "nat";

/// The subsystem of nftables, which a batch is for.
const NFTABLES: u16 = 10;

/// Chain policy "accept".
const ACCEPT: u32 = 1;

/// Numbers that `nft` reads types of sets from; the kernel only keeps them.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PORT: u32 = 13;

/// Attributes of `redir`, which the library does not type.
const REDIRECT_PORT_REGISTER: u16 = 1;
const REDIRECT_FLAGS: u16 = 3;
/// "A port is given."
const RANGE_PROTO_SPECIFIED: u32 = 2;

const LOOKUP_INVERT: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_IPV4: u8 = 2;
const PROTOCOL_IPV6: u8 = 10;
const INTERFACE_NAME_LENGTH: usize = 16;

/// A comment in the user data of a rule: type, length, text with its terminator.
const COMMENT: u8 = 0;

/// One of the kernel's steps in a rule: as much of it as tells two rules apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Expression {
    /// Loads something known about the packet.
    Meta(u32),
    /// Loads bytes of a header.
    Payload { base: u32, offset: u32, length: u32 },
    /// Goes on if what is loaded is, or is not, this.
    Compare { equal: bool, data: Vec<u8> },
    /// Goes on if what is loaded is, or is not, in the set.
    Lookup { set: String, inverted: bool },
    /// Loads a value.
    Value(Vec<u8>),
    /// Leaves the chain.
    Return,
    /// Redirects to the loaded port.
    Redirect,
    /// Anything we never write.
    Other(String),
}

/// A message with what it is for, for errors.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) what: String,
    pub(super) message: NetlinkMessage<NetfilterMessage>,
}

/// The batch that puts the table in place of whatever was there.
pub(super) fn install(table: &Table) -> Vec<Step> {
    let mut steps = removal();
    steps.push(step("the table", NLM_F_CREATE, NfTablesMessage::NewTable(table_message())));
    for (index, set) in table.sets.iter().enumerate() {
        let id = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        steps.push(step(format!("the set {}", set.name), NLM_F_CREATE, new_set(set, id)));
        steps.push(step(format!("the elements of {}", set.name), NLM_F_CREATE, new_elements(set, id)));
    }
    for chain in &table.chains {
        let name = chain.direction.as_str();
        steps.push(step(format!("the chain {name}"), NLM_F_CREATE, new_chain(chain)));
        for (index, rule) in chain.rules.iter().enumerate() {
            let what = format!("rule {} of the chain {name} ({})", index + 1, rule.origin);
            steps.push(step(what, NLM_F_CREATE | NLM_F_APPEND, new_rule(chain.direction, rule)));
        }
    }
    batch(steps)
}

/// The batch after which there is no table, whether or not there was one.
pub(super) fn remove() -> Vec<Step> {
    batch(removal())
}

/// Adding what is there is no error, deleting what is not there is one.
fn removal() -> Vec<Step> {
    vec![
        step("the table", NLM_F_CREATE, NfTablesMessage::NewTable(table_message())),
        step("the table that was there", 0, NfTablesMessage::DeleteTable(table_message())),
    ]
}

/// Numbers the messages and puts them between a beginning and an end. Only the last one asks for an
/// answer: errors come unasked, each with its message's number.
fn batch(mut steps: Vec<Step>) -> Vec<Step> {
    if let Some(last) = steps.last_mut() {
        last.message.header.flags |= NLM_F_ACK;
    }
    let control = |what: &str, message| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES);
        let mut message = NetlinkMessage::new(
            Default::default(),
            NetlinkPayload::from(NetfilterMessage::new(header, message)),
        );
        message.header.flags = NLM_F_REQUEST;
        Step { what: what.to_owned(), message }
    };
    steps.insert(0, control("the transaction", ControlMessage::BatchBegin));
    steps.push(control("the end of the transaction", ControlMessage::BatchEnd));
    for (index, step) in steps.iter_mut().enumerate() {
        step.message.header.sequence_number = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        step.message.finalize();
    }
    steps
}

fn step(what: impl Into<String>, flags: u16, message: NfTablesMessage) -> Step {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let payload = NetlinkPayload::from(NetfilterMessage::new(header, message));
    let mut message = NetlinkMessage::new(Default::default(), payload);
    message.header.flags = NLM_F_REQUEST | flags;
    Step { what: what.into(), message }
}

fn table_message() -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] }
}

fn new_set(set: &Set, id: u32) -> NfTablesMessage {
    let (kind, length) = match set.kind {
        SetKind::Ipv4 => (TYPE_IPV4, 4),
        SetKind::Ipv6 => (TYPE_IPV6, 16),
        SetKind::Port => (TYPE_PORT, 2),
    };
    NfTablesMessage::NewSet(SetMessage {
        attributes: vec![
            SetAttribute::Table(TABLE.to_owned()),
            SetAttribute::Name(set.name.clone()),
            SetAttribute::Flags(SetFlags::Interval),
            SetAttribute::KeyType(kind),
            SetAttribute::KeyLen(length),
            SetAttribute::Id(id),
        ],
    })
}

/// A range is its first value, and behind its last one a mark that the range has ended; at the top
/// of the space there is nothing behind, and no mark.
fn new_elements(set: &Set, id: u32) -> NfTablesMessage {
    let mut elements = Vec::new();
    for (first, last) in &set.ranges {
        let element = |value, flags| {
            ListAttribute::Element(vec![
                SetElementAttribute::Key(DataAttribute::Value(key(set.kind, value))),
                SetElementAttribute::Flags(flags),
            ])
        };
        elements.push(element(*first, SetElementFlags::empty()));
        if *last < set.kind.last() {
            elements.push(element(last + 1, SetElementFlags::IntervalEnd));
        }
    }
    NfTablesMessage::NewSetElement(SetElementMessage {
        attributes: vec![
            SetElementList::Table(TABLE.to_owned()),
            SetElementList::Set(set.name.clone()),
            SetElementList::SetId(id),
            SetElementList::Elements(elements),
        ],
    })
}

/// A value as the kernel holds it in a set of this kind.
fn key(kind: SetKind, value: u128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let length = match kind {
        SetKind::Ipv4 => 4,
        SetKind::Ipv6 => 16,
        SetKind::Port => 2,
    };
    bytes[bytes.len() - length..].to_vec()
}

pub(super) const fn hook(direction: Direction) -> InetHookNumber {
    match direction {
        Direction::Outbound => InetHookNumber::LocalOut,
        Direction::Inbound => InetHookNumber::PreRouting,
    }
}

fn new_chain(chain: &Chain) -> NfTablesMessage {
    NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(chain.direction.as_str().to_owned()),
            ChainAttribute::Hook(vec![
                Hook::Number(hook(chain.direction).into()),
                Hook::Priority(PRIORITY.cast_unsigned()),
            ]),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Type(CHAIN_TYPE.to_owned()),
        ],
    })
}

fn new_rule(direction: Direction, rule: &Rule) -> NfTablesMessage {
    let expressions = expressions(direction, rule).iter().filter_map(encode).collect();
    let comment = rule.origin.to_string();
    let mut data = vec![COMMENT, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(direction.as_str().to_owned()),
            RuleAttribute::Expressions(expressions),
            RuleAttribute::UserData(data),
        ],
    })
}

/// A rule in the kernel's steps.
pub(super) fn expressions(direction: Direction, rule: &Rule) -> Vec<Expression> {
    let mut all = Vec::new();
    let is = |data: Vec<u8>| Expression::Compare { equal: true, data };
    for one in &rule.matches {
        match one {
            Match::Tcp => all.extend([meta(MetaKey::L4Proto), is(vec![PROTOCOL_TCP])]),
            Match::Loopback => {
                let interface = match direction {
                    Direction::Outbound => MetaKey::Oifname,
                    Direction::Inbound => MetaKey::Iifname,
                };
                let mut name = b"lo".to_vec();
                name.resize(INTERFACE_NAME_LENGTH, 0);
                all.extend([meta(interface), is(name)]);
            }
            Match::Bypass(bypass) => {
                let (key, number) = match bypass {
                    Bypass::Mark(mark) => (MetaKey::Mark, mark),
                    Bypass::User(user) => (MetaKey::SocketUserId, user),
                    Bypass::Group(group) => (MetaKey::SocketGroupId, group),
                };
                all.extend([meta(key), is(number.to_ne_bytes().to_vec())]);
            }
            Match::Address { side, family, set, negated } => {
                let (protocol, offset, length) = match (family, side) {
                    (Family::Ipv4, Side::Source) => (PROTOCOL_IPV4, 12, 4),
                    (Family::Ipv4, Side::Destination) => (PROTOCOL_IPV4, 16, 4),
                    (Family::Ipv6, Side::Source) => (PROTOCOL_IPV6, 8, 16),
                    (Family::Ipv6, Side::Destination) => (PROTOCOL_IPV6, 24, 16),
                };
                // Said once: `nft` leaves out the second as well.
                let family = [meta(MetaKey::Nfproto), is(vec![protocol])];
                if !all.windows(2).any(|said| said == family) {
                    all.extend(family);
                }
                all.push(Expression::Payload { base: NETWORK_HEADER, offset, length });
                all.push(Expression::Lookup { set: set.clone(), inverted: *negated });
            }
            Match::Port(set) => {
                all.push(Expression::Payload { base: TRANSPORT_HEADER, offset: 2, length: 2 });
                all.push(Expression::Lookup { set: set.clone(), inverted: false });
            }
        }
    }
    match rule.verdict {
        Verdict::Pass => all.push(Expression::Return),
        Verdict::Redirect(port) => {
            all.extend([Expression::Value(port.to_be_bytes().to_vec()), Expression::Redirect]);
        }
    }
    all
}

fn meta(key: MetaKey) -> Expression {
    Expression::Meta(key.into())
}

/// One step as the library writes it. Register 1 carries whatever is loaded.
fn encode(expression: &Expression) -> Option<ListAttribute<ExpressionAttribute>> {
    let encoded = match expression {
        Expression::Meta(key) => {
            Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key((*key).into())])
        }
        Expression::Payload { base, offset, length } => Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(*base),
            Payload::Offset(*offset),
            Payload::Len(*length),
        ]),
        Expression::Compare { equal, data } => Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(if *equal { Operator::Equal } else { Operator::NotEqual }),
            Cmp::Data(DataAttribute::Value(data.clone())),
        ]),
        Expression::Lookup { set, inverted } => {
            let mut attributes = vec![Lookup::Set(set.clone()), Lookup::SourceRegister(Register::Reg1)];
            if *inverted {
                attributes.push(Lookup::Flags(LOOKUP_INVERT));
            }
            Expressions::Lookup(attributes)
        }
        Expression::Value(value) => Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Reg1),
            Immediate::Data(DataAttribute::Value(value.clone())),
        ]),
        Expression::Return => Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Code::Return)])),
        ]),
        Expression::Redirect => Expressions::Other {
            expression_type: "redir".to_owned(),
            attributes: vec![
                DefaultNla::new(REDIRECT_PORT_REGISTER, u32::from(Register::Reg1).to_be_bytes().to_vec()),
                DefaultNla::new(REDIRECT_FLAGS, RANGE_PROTO_SPECIFIED.to_be_bytes().to_vec()),
            ],
        },
        Expression::Other(_) => return None,
    };
    Some(encoded.into())
}
