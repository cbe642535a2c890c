//! The one place that talks to the kernel: sends a batch, reads what is there.
//!
//! Blocking, and meant for before threads start. Every request needs NET_ADMIN, reading too. It waits
//! for no answer longer than the kernel takes to give it, and holds nothing between calls.

use super::decode;
use super::netlink::{Expression, Step, TABLE};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, SetElementAttribute, SetElementList, SetElementMessage, SetMessage, TableAttribute,
    TableFlags, TableMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use std::io;

/// A dump comes in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;

/// What one message to the kernel may carry: the largest list takes about 200 KiB.
const SEND_BYTES: usize = 1 << 20;

/// "The table changed while it was read."
const DUMP_INTERRUPTED: u16 = 0x10;

/// How often a table that keeps changing is read anew.
const READS_MAX: usize = 5;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel has no netfilter interface, or the process may not open one.
    #[error("the kernel gives no netlink socket for netfilter")]
    Socket(#[source] io::Error),
    /// The capability is missing.
    #[error(
        "redirection rules need the capability NET_ADMIN in this network namespace; give it to this container, \
         or install the rules from an init container that has it"
    )]
    NotPermitted,
    /// The kernel was built without something.
    #[error(
        "the kernel cannot do this: it refuses {what} ({error}); it needs nf_tables with NAT and redirection for \
         the family inet (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_REDIR)"
    )]
    Unsupported {
        /// What was refused.
        what: String,
        /// How.
        error: io::Error,
    },
    /// It refused for another reason; nothing was changed.
    #[error("the kernel refuses {what}; nothing was changed")]
    Refused {
        /// What was refused.
        what: String,
        /// How.
        #[source]
        error: io::Error,
    },
    /// What it answers is not understood.
    #[error("the kernel's answer about {0} is not understood")]
    Answer(&'static str),
}

/// What the kernel holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) tables: Vec<HeldTable>,
    pub(super) chains: Vec<HeldChain>,
    pub(super) rules: Vec<HeldRule>,
    /// Sets of our own table.
    pub(super) sets: Vec<HeldSet>,
}

/// Where something is: family and table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) family: NetfilterProtoFamily,
    pub(super) table: String,
}

#[derive(Debug)]
pub(super) struct HeldTable {
    pub(super) place: Place,
    pub(super) dormant: bool,
}

#[derive(Debug)]
pub(super) struct HeldChain {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) kind: Option<String>,
    pub(super) hook: Option<u32>,
    pub(super) priority: Option<i32>,
}

#[derive(Debug)]
pub(super) struct HeldRule {
    pub(super) place: Place,
    pub(super) chain: String,
    pub(super) expressions: Vec<Expression>,
}

#[derive(Debug)]
pub(super) struct HeldSet {
    pub(super) name: String,
    pub(super) elements: Vec<Vec<SetElementAttribute>>,
}

// === impl Place ===

impl Place {
    /// Where our rules are.
    pub(super) fn ours() -> Self {
        Self { family: NetfilterProtoFamily::Inet, table: TABLE.to_owned() }
    }
}

/// Sends a batch. On an error nothing of it was done.
pub(super) fn transact(steps: &[Step]) -> Result<(), KernelError> {
    let socket = open()?;
    let mut bytes = Vec::new();
    for step in steps {
        append(&mut bytes, &step.message);
    }
    let what = |number: u32| {
        let index = usize::try_from(number).unwrap_or(0).saturating_sub(1);
        steps.get(index).map_or_else(|| "the transaction".to_owned(), |step| step.what.clone())
    };
    let begin = steps.first().map_or(0, |step| step.message.header.sequence_number);
    let answered = steps
        .iter()
        .find(|step| step.message.header.flags & NLM_F_ACK != 0)
        .map_or(begin, |step| step.message.header.sequence_number);
    socket.send(&bytes, 0).map_err(|error| refused("the transaction".to_owned(), error))?;
    let mut first_error = None;
    loop {
        for message in receive(&socket)? {
            let number = message.header.sequence_number;
            let NetlinkPayload::Error(answer) = message.payload else { continue };
            if answer.code.is_some() && first_error.is_none() {
                first_error = Some(refused(what(number), answer.to_io()));
            }
            // The whole batch was refused, or its last message was answered.
            if (number == begin && answer.code.is_some()) || number == answered {
                return first_error.map_or(Ok(()), Err);
            }
        }
    }
}

/// Reads all tables, chains and rules, and the sets of our own table.
pub(super) fn read() -> Result<Held, KernelError> {
    let socket = open()?;
    for _ in 0..READS_MAX {
        if let Some(held) = read_once(&socket)? {
            return Ok(held);
        }
    }
    Err(KernelError::Answer("rules that keep changing while they are read"))
}

fn read_once(socket: &Socket) -> Result<Option<Held>, KernelError> {
    let mut held = Held::default();
    let mut whole = true;
    let mut ask = |family, message, keep: &mut dyn FnMut(NetfilterProtoFamily, NfTablesMessage)| {
        dump(socket, family, message, keep).map(|complete| whole &= complete)
    };
    let all = NetfilterProtoFamily::Unspec;
    let request = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    ask(all, request, &mut |family, message| {
        if let NfTablesMessage::NewTable(message) = message {
            held.tables.push(table(family, message));
        }
    })?;
    let request = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    ask(all, request, &mut |family, message| {
        if let NfTablesMessage::NewChain(message) = message {
            held.chains.push(chain(family, message));
        }
    })?;
    let request = NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() });
    ask(all, request, &mut |family, message| {
        if let NfTablesMessage::NewRule(message) = message {
            held.rules.push(rule(family, message));
        }
    })?;
    if held.tables.iter().any(|table| table.place == Place::ours()) {
        let ours = NetfilterProtoFamily::Inet;
        let request =
            NfTablesMessage::GetSet(SetMessage { attributes: vec![SetAttribute::Table(TABLE.to_owned())] });
        ask(ours, request, &mut |_, message| {
            if let NfTablesMessage::NewSet(message) = message {
                let name = message.attributes.into_iter().find_map(|attribute| match attribute {
                    SetAttribute::Name(name) => Some(name),
                    _ => None,
                });
                held.sets.extend(name.map(|name| HeldSet { name, elements: Vec::new() }));
            }
        })?;
        for set in &mut held.sets {
            let attributes =
                vec![SetElementList::Table(TABLE.to_owned()), SetElementList::Set(set.name.clone())];
            let request = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
            ask(ours, request, &mut |_, message| {
                if let NfTablesMessage::NewSetElement(message) = message {
                    set.elements.extend(elements(message));
                }
            })?;
        }
    }
    Ok(whole.then_some(held))
}

fn table(family: NetfilterProtoFamily, message: TableMessage) -> HeldTable {
    let (mut name, mut dormant) = (String::new(), false);
    for attribute in message.attributes {
        match attribute {
            TableAttribute::Name(value) => name = value,
            TableAttribute::Flags(flags) => dormant = flags.contains(TableFlags::Dormant),
            _ => {}
        }
    }
    HeldTable { place: Place { family, table: name }, dormant }
}

fn chain(family: NetfilterProtoFamily, message: ChainMessage) -> HeldChain {
    let (mut table, mut name, mut kind) = (String::new(), String::new(), None);
    let (mut hook, mut priority) = (None, None);
    for attribute in message.attributes {
        match attribute {
            ChainAttribute::Table(value) => table = value,
            ChainAttribute::Name(value) => name = value,
            ChainAttribute::Type(value) => kind = Some(value),
            ChainAttribute::Hook(parts) => {
                for part in parts {
                    match part {
                        Hook::Number(number) => hook = Some(number.into()),
                        Hook::Priority(value) => priority = Some(value.cast_signed()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    HeldChain { place: Place { family, table }, name, kind, hook, priority }
}

fn rule(family: NetfilterProtoFamily, message: RuleMessage) -> HeldRule {
    let (mut table, mut chain, mut expressions) = (String::new(), String::new(), Vec::new());
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Table(value) => table = value,
            RuleAttribute::Chain(value) => chain = value,
            RuleAttribute::Expressions(list) => expressions = decode::rule(&list),
            _ => {}
        }
    }
    HeldRule { place: Place { family, table }, chain, expressions }
}

fn elements(message: SetElementMessage) -> Vec<Vec<SetElementAttribute>> {
    let lists = message.attributes.into_iter().filter_map(|attribute| match attribute {
        SetElementList::Elements(list) => Some(list),
        _ => None,
    });
    lists
        .flatten()
        .filter_map(|element| match element {
            ListAttribute::Element(attributes) => Some(attributes),
            _ => None,
        })
        .collect()
}

fn open() -> Result<Socket, KernelError> {
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(KernelError::Socket)?;
    socket.bind_auto().map_err(KernelError::Socket)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(KernelError::Socket)?;
    socket2::SockRef::from(&socket).set_send_buffer_size(SEND_BYTES).map_err(KernelError::Socket)?;
    Ok(socket)
}

/// Asks for all of something. `false`: it changed meanwhile.
fn dump(
    socket: &Socket,
    family: NetfilterProtoFamily,
    message: NfTablesMessage,
    keep: &mut dyn FnMut(NetfilterProtoFamily, NfTablesMessage),
) -> Result<bool, KernelError> {
    let payload = NetlinkPayload::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message));
    let mut request = NetlinkMessage::new(Default::default(), payload);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = Vec::new();
    append(&mut bytes, &request);
    let what = || "to show its rules".to_owned();
    socket.send(&bytes, 0).map_err(|error| refused(what(), error))?;
    let mut whole = true;
    loop {
        for message in receive(socket)? {
            whole &= message.header.flags & DUMP_INTERRUPTED == 0;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(whole),
                NetlinkPayload::Error(answer) if answer.code.is_some() => {
                    let error = answer.to_io();
                    // What was listed a moment ago is gone.
                    if error.raw_os_error() == Some(Errno::ENOENT as i32) {
                        return Ok(false);
                    }
                    return Err(refused(what(), error));
                }
                NetlinkPayload::InnerMessage(message) => {
                    if let NetfilterMessageInner::NfTables(inner) = message.inner {
                        keep(message.header.family, inner);
                    }
                }
                _ => {}
            }
        }
    }
}

fn append(bytes: &mut Vec<u8>, message: &NetlinkMessage<NetfilterMessage>) {
    let start = bytes.len();
    // Messages stand at multiples of four.
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

fn receive(socket: &Socket) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, KernelError> {
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
    socket.recv(&mut buffer, 0).map_err(|error| refused("to answer".to_owned(), error))?;
    let mut messages = Vec::new();
    let mut rest = &buffer[..];
    while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (Some(message), true) = (rest.get(..length), length >= 16) else {
            return Err(KernelError::Answer("the rules"));
        };
        // Another tool's rules may hold what the library cannot read; ours never do, so that a rule
        // which is not understood is found missing where it matters.
        if let Ok(message) = NetlinkMessage::deserialize(message) {
            messages.push(message);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn refused(what: String, error: io::Error) -> KernelError {
    const LACKING: [Errno; 5] =
        [Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT, Errno::EPROTONOSUPPORT, Errno::ENOENT, Errno::ENOPROTOOPT];
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => KernelError::NotPermitted,
        Some(lacking) if LACKING.contains(&lacking) => KernelError::Unsupported { what, error },
        _ => KernelError::Refused { what, error },
    }
}
