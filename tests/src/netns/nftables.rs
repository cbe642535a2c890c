//! Changes to a pod's rules behind everyone's back: what other tools, or people, might do to them.
//!
//! Messages are made by hand here, apart from the product's encoder, and sent in one batch.

use super::Pod;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, Immediate, InetHookNumber, Meta,
    MetaKey, NfTablesMessage, Operator, Register, RuleAttribute, RuleMessage, TableAttribute, TableFlags,
    TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// The subsystem a batch is for.
const NFTABLES: u16 = 10;

/// IPv4 and IPv6 among the protocol families.
const PROTOCOL_IPV4: u8 = 2;
const PROTOCOL_IPV6: u8 = 10;

/// The family of a table.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    /// Both.
    Inet,
    /// IPv4 alone.
    Ipv4,
}

/// A table that redirects what the pod calls, as another mesh would have it.
pub fn redirection(table: &str) -> Vec<NfTablesMessage> {
    let redirect = vec![Expressions::Other { expression_type: "redir".to_owned(), attributes: Vec::new() }];
    vec![
        NfTablesMessage::NewTable(TableMessage { attributes: vec![TableAttribute::Name(table.to_owned())] }),
        NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(table.to_owned()),
                ChainAttribute::Name("out".to_owned()),
                ChainAttribute::Hook(vec![
                    Hook::Number(InetHookNumber::LocalOut.into()),
                    Hook::Priority((-100i32).cast_unsigned()),
                ]),
                ChainAttribute::Type("nat".to_owned()),
            ],
        }),
        new_rule(table, "out", redirect),
    ]
}

/// Takes all rules out of a chain.
pub fn flush(table: &str, chain: &str) -> Vec<NfTablesMessage> {
    vec![NfTablesMessage::DeleteRule(RuleMessage {
        attributes: vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.to_owned())],
    })]
}

/// A rule in front of all others that lets IPv6 pass.
pub fn pass_ipv6(table: &str, chain: &str) -> Vec<NfTablesMessage> {
    pass(table, chain, PROTOCOL_IPV6)
}

/// A rule in front of all others that lets IPv4 pass.
pub fn pass_ipv4(table: &str, chain: &str) -> Vec<NfTablesMessage> {
    pass(table, chain, PROTOCOL_IPV4)
}

fn pass(table: &str, chain: &str, protocol: u8) -> Vec<NfTablesMessage> {
    let expressions = vec![
        Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(MetaKey::Nfproto)]),
        Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(vec![protocol])),
        ]),
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Return)])),
        ]),
    ];
    vec![new_rule(table, chain, expressions)]
}

/// Makes a table dormant.
pub fn switch_off(table: &str) -> Vec<NfTablesMessage> {
    vec![NfTablesMessage::NewTable(TableMessage {
        attributes: vec![TableAttribute::Name(table.to_owned()), TableAttribute::Flags(TableFlags::Dormant)],
    })]
}

fn new_rule(table: &str, chain: &str, expressions: Vec<Expressions>) -> NfTablesMessage {
    NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
        ],
    })
}

/// Does it, in the pod; panics if the kernel refuses.
pub fn change(pod: &Pod, family: Family, messages: Vec<NfTablesMessage>) {
    let family = match family {
        Family::Inet => NetfilterProtoFamily::Inet,
        Family::Ipv4 => NetfilterProtoFamily::IPv4,
    };
    let control = |message| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES);
        NetlinkPayload::from(NetfilterMessage::new(header, message))
    };
    let mut payloads = vec![control(ControlMessage::BatchBegin)];
    for message in messages {
        let header = NetfilterHeader::new(family, 0, 0);
        payloads.push(NetlinkPayload::from(NetfilterMessage::new(header, message)));
    }
    payloads.push(control(ControlMessage::BatchEnd));
    let last = payloads.len() - 2;
    let mut bytes = Vec::new();
    for (index, payload) in payloads.into_iter().enumerate() {
        let mut message = NetlinkMessage::new(Default::default(), payload);
        // Without NLM_F_APPEND a rule goes in front of those that are there.
        message.header.flags = NLM_F_REQUEST | NLM_F_CREATE | if index == last { NLM_F_ACK } else { 0 };
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }
    let answer = pod.run(move || {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&bytes, 0)?;
        socket.recv_from_full()
    });
    let (answer, _) = answer.expect("the kernel must answer");
    let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&answer).expect("an answer must be one");
    let NetlinkPayload::Error(answer) = answer.payload else { panic!("{answer:?}") };
    assert!(answer.code.is_none(), "{answer}");
}
