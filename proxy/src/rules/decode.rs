//! The kernel's rules, read into the same steps that ours are written in.
//!
//! What is not understood stays visible as such: a rule with one unknown step equals none of ours.
//! Counters are skipped, for they change nothing.

use super::netlink::Expression;
use super::table::{SetKind, merged};
use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta, Operator,
    Payload, SetElementAttribute, SetElementFlags, Verdict, VerdictAttribute,
};

/// The attribute with the name of an iptables target or match.
const TARGET_NAME: u16 = 1;

/// A rule's steps.
pub(super) fn rule(list: &[ListAttribute<ExpressionAttribute>]) -> Vec<Expression> {
    list.iter()
        .filter_map(|element| {
            let ListAttribute::Element(attributes) = element else {
                return Some(Expression::Other("an unknown element".to_owned()));
            };
            let name = attributes.iter().find_map(|attribute| match attribute {
                ExpressionAttribute::Name(name) => Some(name.as_str()),
                _ => None,
            });
            let data = attributes.iter().find_map(|attribute| match attribute {
                ExpressionAttribute::Data(data) => Some(data),
                _ => None,
            });
            match (name, data) {
                (Some("counter"), _) => None,
                (_, Some(data)) => Some(expression(data)),
                (name, None) => Some(Expression::Other(name.unwrap_or("an unknown step").to_owned())),
            }
        })
        .collect()
}

/// Whether a rule sends connections to a port of this machine, in nftables or in iptables' form.
pub(super) fn redirects(expressions: &[Expression]) -> bool {
    expressions.iter().any(|one| match one {
        Expression::Redirect => true,
        Expression::Other(name) => name == "tproxy" || name == "REDIRECT" || name == "TPROXY",
        _ => false,
    })
}

fn expression(data: &Expressions) -> Expression {
    let understood = match data {
        Expressions::Meta(attributes) => attributes.iter().find_map(|attribute| match attribute {
            Meta::Key(key) => Some(Expression::Meta((*key).into())),
            _ => None,
        }),
        Expressions::Payload(attributes) => payload(attributes),
        Expressions::Cmp(attributes) => compare(attributes),
        Expressions::Lookup(attributes) => lookup(attributes),
        Expressions::Immediate(attributes) => immediate(attributes),
        Expressions::Other { expression_type, attributes } => Some(match expression_type.as_str() {
            "redir" => Expression::Redirect,
            "target" => Expression::Other(target(attributes)),
            other => Expression::Other(other.to_owned()),
        }),
        _ => None,
    };
    understood.unwrap_or_else(|| Expression::Other("an unknown step".to_owned()))
}

/// A load has a destination; a step with a source register changes the packet, and is not ours.
fn payload(attributes: &[Payload]) -> Option<Expression> {
    let (mut base, mut offset, mut length) = (None, None, None);
    for attribute in attributes {
        match attribute {
            Payload::Base(value) => base = Some(*value),
            Payload::Offset(value) => offset = Some(*value),
            Payload::Len(value) => length = Some(*value),
            Payload::SourceRegister(_) => return None,
            _ => {}
        }
    }
    Some(Expression::Payload { base: base?, offset: offset?, length: length? })
}

fn compare(attributes: &[Cmp]) -> Option<Expression> {
    let (mut equal, mut data) = (None, None);
    for attribute in attributes {
        match attribute {
            Cmp::Op(Operator::Equal) => equal = Some(true),
            Cmp::Op(Operator::NotEqual) => equal = Some(false),
            Cmp::Data(DataAttribute::Value(value)) => data = Some(value.clone()),
            _ => {}
        }
    }
    Some(Expression::Compare { equal: equal?, data: data? })
}

fn lookup(attributes: &[Lookup]) -> Option<Expression> {
    let (mut set, mut inverted) = (None, false);
    for attribute in attributes {
        match attribute {
            Lookup::Set(name) => set = Some(name.clone()),
            Lookup::Flags(flags) => inverted = *flags & 1 != 0,
            _ => {}
        }
    }
    Some(Expression::Lookup { set: set?, inverted })
}

fn immediate(attributes: &[Immediate]) -> Option<Expression> {
    attributes.iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Value(value)) => Some(Expression::Value(value.clone())),
        Immediate::Data(DataAttribute::Verdict(verdict)) => {
            let code = verdict.iter().find_map(|attribute| match attribute {
                VerdictAttribute::Code(code) => Some(*code),
                _ => None,
            });
            Some(match code {
                Some(Verdict::Return) => Expression::Return,
                other => Expression::Other(format!("verdict {other:?}")),
            })
        }
        _ => None,
    })
}

/// The name of an iptables target: text up to its terminator.
fn target(attributes: &[DefaultNla]) -> String {
    let Some(name) = attributes.iter().find(|attribute| attribute.kind() == TARGET_NAME) else {
        return "target".to_owned();
    };
    let mut bytes = vec![0; name.value_len()];
    name.emit_value(&mut bytes);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The ranges that a set's elements describe, whatever order they come in. `None`: some element is
/// none of a range.
pub(super) fn ranges(kind: SetKind, elements: &[Vec<SetElementAttribute>]) -> Option<Vec<(u128, u128)>> {
    let mut marks = Vec::new();
    for element in elements {
        let mut key = None;
        let mut end = false;
        for attribute in element {
            match attribute {
                SetElementAttribute::Key(DataAttribute::Value(value)) => key = Some(number(value)?),
                SetElementAttribute::Flags(flags) => end = flags.contains(SetElementFlags::IntervalEnd),
                _ => {}
            }
        }
        marks.push((key?, end));
    }
    // At one value, what ends there comes before what begins.
    marks.sort_unstable_by_key(|(key, end)| (*key, !end));
    let mut ranges = Vec::new();
    let mut open = None;
    for (key, end) in marks {
        if !end {
            open.get_or_insert(key);
        } else if let Some(first) = open.take() {
            ranges.push((first, key.checked_sub(1)?));
        }
    }
    ranges.extend(open.map(|first| (first, kind.last())));
    Some(merged(ranges))
}

fn number(bytes: &[u8]) -> Option<u128> {
    let mut all = [0; 16];
    let from = all.len().checked_sub(bytes.len())?;
    all[from..].copy_from_slice(bytes);
    Some(u128::from_be_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::{expressions, install};
    use super::super::settings::RulesSettings;
    use super::super::wanted::RuleSet;
    use super::*;
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
    use netlink_packet_netfilter::nftables::{NfTablesMessage, RuleAttribute, SetElementList};
    use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};

    #[test]
    fn what_is_written_reads_back_as_it_was_meant() {
        let lines = ["exclude 10.0.0.0/8,fd00::/8 port 1-9,22", "include inbound 0.0.0.0/0,::/0 port 65535"]
            .map(|line| line.parse().unwrap())
            .to_vec();
        let table = RuleSet::new(RulesSettings { lines, ..RulesSettings::default() }).unwrap().table();
        let (mut rules, mut sets) = (Vec::new(), Vec::new());
        for step in install(&table) {
            let mut bytes = vec![0; step.message.buffer_len()];
            step.message.serialize(&mut bytes);
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(&bytes).unwrap();
            let NetlinkPayload::InnerMessage(message) = message.payload else { panic!("{}", step.what) };
            match message.inner {
                NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(held)) => {
                    rules.extend(held.attributes.into_iter().find_map(|attribute| match attribute {
                        RuleAttribute::Expressions(list) => Some(rule(&list)),
                        _ => None,
                    }));
                }
                NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(held)) => {
                    sets.extend(held.attributes.into_iter().filter_map(|attribute| match attribute {
                        SetElementList::Elements(list) => Some(list),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        let wanted: Vec<_> = table
            .chains
            .iter()
            .flat_map(|chain| chain.rules.iter().map(|rule| expressions(chain.direction, rule)))
            .collect();
        assert_eq!(rules, wanted);
        assert_eq!(sets.len(), table.sets.len());
        for (set, held) in table.sets.iter().zip(sets) {
            let mut elements: Vec<_> = held
                .into_iter()
                .map(|element| match element {
                    ListAttribute::Element(attributes) => attributes,
                    other => panic!("{other:?}"),
                })
                .collect();
            elements.reverse();
            assert_eq!(ranges(set.kind, &elements).as_ref(), Some(&set.ranges), "{}", set.name);
        }
    }
}
