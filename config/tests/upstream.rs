//! The schema knows every key that upstream's own types know: accepted, or refused by name, but
//! never taken for a typo. A new version of those crates that adds a field fails here first.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use gateway_api::apis::standard::grpcroutes as grpc;
use gateway_api::apis::standard::httproutes as gateway;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::value::Error as ValueError;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use weft_config::{SourceFile, compile};

/// Asks a type for the names of its fields, and gives it nothing.
struct Fields<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ValueError> {
        Err(ValueError::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, ValueError> {
        self.0.extend(fields);
        Err(ValueError::custom("the fields are known"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn unknown(template: &str, key: &str) -> bool {
    let files = [SourceFile { name: "t.yaml".to_owned(), text: template.replace("KEY", key) }];
    let message = format!("unknown key {key:?}");
    compile(&files).diagnostics.iter().any(|diagnostic| diagnostic.message == message)
}

fn check<'de, T: Deserialize<'de>>(template: &str) {
    let mut fields = Vec::new();
    assert!(T::deserialize(Fields(&mut fields)).is_err());
    assert!(!fields.is_empty(), "{}", std::any::type_name::<T>());
    for field in fields {
        assert!(!unknown(template, field), "{} has {field}", std::any::type_name::<T>());
    }
    assert!(unknown(template, "zzzz"), "the template must lead to the type: {template}");
}

fn service(part: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{{part}}}}}")
}

fn route(part: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: a}}, spec: {{{part}}}}}"
    )
}

fn rule(part: &str) -> String {
    route(&format!("rules: [{{{part}}}]"))
}

fn filter(part: &str) -> String {
    rule(&format!("filters: [{{{part}}}]"))
}

#[test]
fn no_key_of_a_service_is_taken_for_a_typo() {
    check::<ObjectMeta>("{apiVersion: v1, kind: Service, metadata: {KEY: 1}, spec: {}}");
    check::<core::ServiceSpec>(&service("KEY: 1"));
    check::<core::ServicePort>(&service("ports: [{KEY: 1}]"));
}

#[test]
fn no_key_of_an_http_route_is_taken_for_a_typo() {
    check::<gateway::HttpRouteSpec>(&route("KEY: 1"));
    check::<gateway::HttpRouteParentRefs>(&route("parentRefs: [{KEY: 1}]"));
    check::<gateway::HttpRouteRules>(&rule("KEY: 1"));
    check::<gateway::HttpRouteRulesTimeouts>(&rule("timeouts: {KEY: 1}"));
    check::<gateway::HttpRouteRulesBackendRefs>(&rule("backendRefs: [{KEY: 1}]"));
    check::<gateway::HttpRouteRulesMatches>(&rule("matches: [{KEY: 1}]"));
    check::<gateway::HttpRouteRulesMatchesPath>(&rule("matches: [{path: {KEY: 1}}]"));
    check::<gateway::HttpRouteRulesMatchesHeaders>(&rule("matches: [{headers: [{KEY: 1}]}]"));
    check::<gateway::HttpRouteRulesMatchesQueryParams>(&rule("matches: [{queryParams: [{KEY: 1}]}]"));
}

#[test]
fn no_key_of_a_grpc_route_is_taken_for_a_typo() {
    let route = |part: &str| route(part).replace("HTTPRoute", "GRPCRoute");
    check::<grpc::GrpcRouteSpec>(&route("KEY: 1"));
    check::<grpc::GrpcRouteRules>(&route("rules: [{KEY: 1}]"));
    check::<grpc::GrpcRouteRulesMatches>(&route("rules: [{matches: [{KEY: 1}]}]"));
    check::<grpc::GrpcRouteRulesMatchesMethod>(&route("rules: [{matches: [{method: {KEY: 1}}]}]"));
}

#[test]
fn no_key_of_a_filter_is_taken_for_a_typo() {
    check::<gateway::HttpRouteRulesFilters>(&filter("type: RequestHeaderModifier, KEY: 1"));
    let headers =
        |part: &str| filter(&format!("type: RequestHeaderModifier, requestHeaderModifier: {{{part}}}"));
    check::<gateway::HttpRouteRulesFiltersRequestHeaderModifier>(&headers("KEY: 1"));
    check::<gateway::HttpRouteRulesFiltersRequestHeaderModifierSet>(&headers("set: [{KEY: 1}]"));
    let redirect = |part: &str| filter(&format!("type: RequestRedirect, requestRedirect: {{{part}}}"));
    check::<gateway::HttpRouteRulesFiltersRequestRedirect>(&redirect("KEY: 1"));
    check::<gateway::HttpRouteRulesFiltersRequestRedirectPath>(&redirect("path: {KEY: 1}"));
    let mirror = |part: &str| filter(&format!("type: RequestMirror, requestMirror: {{{part}}}"));
    check::<gateway::HttpRouteRulesFiltersRequestMirror>(&mirror("KEY: 1"));
    check::<gateway::HttpRouteRulesFiltersRequestMirrorBackendRef>(&mirror("backendRef: {KEY: 1}"));
    check::<gateway::HttpRouteRulesFiltersRequestMirrorFraction>(&mirror("fraction: {KEY: 1}"));
    check::<gateway::HttpRouteRulesFiltersCors>(&filter("type: CORS, cors: {KEY: 1}"));
    let rewrite = filter("type: URLRewrite, urlRewrite: {KEY: 1}");
    check::<gateway::HttpRouteRulesFiltersUrlRewrite>(&rewrite);
}
