//! The Gateway API's conformance tests for meshes, as cases: routes, requests, and what must come of them.
//!
//! The facts are those of kubernetes-sigs/gateway-api, `conformance/tests` and `conformance/tests/mesh`; the
//! form is ours. Each case has a Service of its own as the parent of its routes, and all are served by one
//! mesh. A request is `METHOD TARGET NAME=VALUE…`; what must come of it is the application that answers (`v1`,
//! `v2`, `v3`) or a status, then `>NAME=VALUE` for what that application saw (`target` and all fields of a name,
//! joined) and `<NAME=VALUE` for what the client got; `-` says that there is none.
//!
//! | upstream | here |
//! |---|---|
//! | MeshBasic, MeshHTTPRouteSimpleSameNamespace | `same-namespace` |
//! | MeshHTTPRouteMatching, HTTPRouteMatching, HTTPRouteMatchingAcrossRoutes | `matching`, `across-routes` |
//! | HTTPRouteExactPathMatching, HTTPRoutePathMatchOrder | `exact-path`, `path-order` |
//! | HTTPRouteHeaderMatching | `headers` |
//! | MeshHTTPRouteQueryParamMatching, HTTPRouteQueryParamMatching | `queries` |
//! | HTTPRouteMethodMatching | `methods` |
//! | MeshHTTPRouteNamedRule | `named-rule` |
//! | MeshHTTPRouteRequestHeaderModifier, MeshHTTPRouteBackendRequestHeaderModifier | `request-headers`, `backend-request-headers` |
//! | HTTPRouteResponseHeaderModifier | `response-headers` |
//! | MeshHTTPRouteRedirectHostAndStatus, …303Redirect, …307Redirect, …308Redirect | `redirect-host` |
//! | MeshHTTPRouteRedirectPath, …Port, …Scheme, HTTPRouteRedirectPortAndScheme | `redirect-path`, `redirect-port`, `redirect-scheme` |
//! | MeshHTTPRouteRewritePath, HTTPRouteRewriteHost | `rewrite-path`, `rewrite-host` |
//! | HTTPRouteCORS, HTTPRouteCORSAllowCredentialsBehavior | `cors` |
//! | HTTPRouteInvalidNonExistentBackendRef, HTTPRouteAllBackendsWeightZero | `no-backend` |
//! | MeshTrafficSplit | `split` |
//! | MeshHTTPRouteWeight, HTTPRouteWeight, MeshGRPCRouteWeight | `weights_are_shares_of_the_requests` |
//! | HTTPRouteRequestMirror, HTTPRouteRequestMultipleMirrors, HTTPRouteRequestPercentageMirror | `every_mirror_gets_its_share_of_copies` |
//! | MeshPorts, MeshFrontend, MeshFrontendHostname, MeshConsumerRoute | tests of their names |
//! | GRPCExactMethodMatching, GRPCRouteHeaderMatching, MeshGRPCRouteRequestHeaderModifier | `calls_are_matched_and_edited` |
//! | HTTPRouteTimeoutRequest, HTTPRouteTimeoutBackendRequest | `outbound_routing` and `outbound_retry` |
//! | HTTPRouteCrossNamespace, HTTPRouteReferenceGrant, MeshGRPCRouteRequestMirror | `outbound_routes` |
//! | HTTPRouteSessionPersistence…, GRPCRouteSessionPersistence… | `outbound_routes` |
//! | HTTPRouteBackendProtocolH2C, HTTPRouteBackendProtocolWebSocket | `outbound_protocols` |
//! | TLSRouteSimpleSameNamespace, TLSRouteHostnameIntersection, TCPRoute… | `outbound_tcp` |
//! | HTTPRouteInvalidBackendRefUnknownKind, …DisallowedKind, …InvalidParentRef… | `config/tests/corpus`: refused with the place |
//!
//! Not for meshes: HTTPRouteInvalidCrossNamespaceBackendRef, HTTPRouteInvalidReferenceGrant and
//! …PartiallyInvalidViaInvalidReferenceGrant (a route of a Service needs no grant, GEP-1294); all of Gateways,
//! listeners, hostnames of listeners, addresses, BackendTLSPolicy and conditions in `status` (HTTPRouteHTTPSListener,
//! …ListenerHostnameMatching, …HostnameIntersection, …ObservedGenerationBump, …), since there is no Gateway and
//! documents are judged by `weft check`; HTTPRouteServiceTypes (headless and without endpoints: `netns_destinations`,
//! `outbound_routing`); HTTPRouteExternalAuth (refused: AuthorizationPolicy has CUSTOM); UDPRoute.

use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Request, Response};
use weft_tests::http2::{Connection, grpc};
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::wait;

/// A Service and the routes that it is the parent of.
struct Case {
    name: &'static str,
    /// The rules of each route, in flow YAML; `@v1` is `backendRefs` of that version alone.
    routes: &'static [&'static str],
    /// Requests, and what must come of them.
    checks: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case {
        name: "same-namespace",
        routes: &["{ @v1 }"],
        checks: &[("GET /", "v1"), ("GET /any?x=1", "v1 >target=/any?x=1")],
    },
    Case {
        name: "matching",
        routes: &[
            "{ matches: [{ path: { value: / } }, { headers: [{ name: version, value: one }] }], @v1 }, { matches: [{ \
                   path: { value: /v2 } }, { headers: [{ name: version, value: two }] }], @v2 }",
        ],
        checks: &[
            ("GET /", "v1"),
            ("GET /example", "v1"),
            ("GET / Version=one", "v1"),
            ("GET /v2", "v2"),
            ("GET /v2/example", "v2"),
            ("GET / Version=two", "v2"),
            ("GET /v2/ Version=one", "v2"),
            ("GET /v2example", "v1"),
            ("GET /foo/v2/example", "v1"),
        ],
    },
    Case {
        name: "across-routes",
        routes: &[
            "{ matches: [{ path: { value: / } }, { headers: [{ name: version, value: one }] }], @v1 }",
            "{ matches: [{ path: { value: /v2 } }, { headers: [{ name: version, value: two }] }], @v2 }",
        ],
        checks: &[
            ("GET /", "v1"),
            ("GET /example", "v1"),
            ("GET /example Version=one", "v1"),
            ("GET /v2", "v2"),
            ("GET /v2/example Version=one", "v2"),
            ("GET / Version=two", "v2"),
        ],
    },
    Case {
        name: "exact-path",
        routes: &[
            "{ matches: [{ path: { type: Exact, value: /one } }], @v1 }, { matches: [{ path: { type: Exact, value: /two \
                   } }], @v2 }",
        ],
        checks: &[
            ("GET /one", "v1"),
            ("GET /one?x=1", "v1"),
            ("GET /two", "v2"),
            ("GET /", "404"),
            ("GET /one/", "404"),
            ("GET /one/example", "404"),
            ("GET /ONE", "404"),
            ("GET /three", "404"),
        ],
    },
    Case {
        name: "path-order",
        routes: &[
            "{ matches: [{ path: { value: /match } }], @v3 }, { matches: [{ path: { value: /match/prefix } }], @v1 }, { \
                   matches: [{ path: { value: /match/prefix/one } }], @v2 }, { matches: [{ path: { type: Exact, value: /match \
                   } }], @v1 }, { matches: [{ path: { type: Exact, value: /match/exact } }], @v2 }, { matches: [{ path: { \
                   type: Exact, value: /match/exact/one } }], @v3 }",
        ],
        checks: &[
            ("GET /match/exact/one", "v3"),
            ("GET /match/exact", "v2"),
            ("GET /match", "v1"),
            ("GET /match/prefix/one/any", "v2"),
            ("GET /match/prefix/any", "v1"),
            ("GET /match/any", "v3"),
        ],
    },
    Case {
        name: "headers",
        routes: &[
            "{ matches: [{ headers: [{ name: version, value: one }] }], @v1 }, { matches: [{ headers: [{ name: version, \
                   value: two }] }], @v2 }, { matches: [{ headers: [{ name: version, value: two }, { name: color, value: \
                   orange }] }], @v1 }, { matches: [{ headers: [{ name: color, value: blue }] }, { headers: [{ name: color, \
                   value: green }] }], @v1 }, { matches: [{ headers: [{ name: color, value: red }] }, { headers: [{ name: \
                   color, value: yellow }] }], @v2 }",
        ],
        checks: &[
            ("GET / Version=one", "v1"),
            ("GET / Version=two", "v2"),
            ("GET / Version=two Color=orange", "v1"),
            ("GET / Version=two Color=blue", "v2"),
            ("GET / Color=orange", "404"),
            ("GET / Some-Other-Header=one", "404"),
            ("GET / Color=blue", "v1"),
            ("GET / Color=green", "v1"),
            ("GET / Color=red", "v2"),
            ("GET / Color=yellow", "v2"),
            ("GET / Color=purple", "404"),
            ("GET / Color=Blue", "404"),
        ],
    },
    Case {
        name: "queries",
        routes: &[
            "{ matches: [{ queryParams: [{ name: animal, value: whale }] }], @v1 }, { matches: [{ queryParams: [{ name: \
                   animal, value: dolphin }] }], @v2 }, { matches: [{ queryParams: [{ name: animal, value: dolphin }, { name: \
                   color, value: blue }] }], @v3 }, { matches: [{ queryParams: [{ name: ANIMAL, value: Whale }] }], @v3 }, { \
                   matches: [{ path: { value: /path1 }, queryParams: [{ name: animal, value: whale }] }], @v1 }, { matches: \
                   [{ headers: [{ name: version, value: one }], queryParams: [{ name: animal, value: whale }] }], @v2 }, { \
                   matches: [{ path: { value: /path2 }, headers: [{ name: version, value: two }], queryParams: [{ name: \
                   animal, value: whale }] }], @v3 }, { matches: [{ path: { value: /path3 }, queryParams: [{ name: animal, \
                   value: shark }] }, { path: { value: /path4 }, headers: [{ name: version, value: three }], queryParams: [{ \
                   name: animal, value: kraken }] }], @v1 }, { matches: [{ path: { value: /path5 } }], @v1 }, { matches: [{ \
                   queryParams: [{ name: animal, value: hydra }] }], @v2 }, { matches: [{ headers: [{ name: version, value: \
                   four }] }], @v3 }",
        ],
        checks: &[
            ("GET /?animal=whale", "v1"),
            ("GET /?animal=dolphin", "v2"),
            ("GET /?animal=dolphin&color=blue", "v3"),
            ("GET /?ANIMAL=Whale", "v3"),
            ("GET /?animal=whale&otherparam=irrelevant", "v1"),
            ("GET /?animal=dolphin&color=yellow", "v2"),
            ("GET /?color=blue", "404"),
            ("GET /?animal=dog", "404"),
            ("GET /?animal=whaledolphin", "404"),
            ("GET /", "404"),
            ("GET /path1?animal=whale", "v1"),
            ("GET /?animal=whale version=one", "v2"),
            ("GET /path2?animal=whale version=two", "v3"),
            ("GET /path3?animal=shark", "v1"),
            ("GET /path4?animal=kraken version=three", "v1"),
            ("GET /?animal=shark", "404"),
            ("GET /path4?animal=kraken", "404"),
            ("GET /path5?animal=hydra", "v1"),
            ("GET /?animal=hydra version=four", "v3"),
            ("GET /?animal=hydra", "v2"),
        ],
    },
    Case {
        name: "methods",
        routes: &[
            "{ matches: [{ method: POST }], @v1 }, { matches: [{ method: GET }], @v2 }, { matches: [{ path: { value: \
                   /path1 }, method: GET }], @v1 }, { matches: [{ headers: [{ name: version, value: one }], method: PUT }], \
                   @v2 }, { matches: [{ path: { value: /path2 }, headers: [{ name: version, value: two }], method: POST }], \
                   @v3 }, { matches: [{ path: { value: /path3 }, method: PATCH }, { path: { value: /path4 }, headers: [{ \
                   name: version, value: three }], method: DELETE }], @v1 }, { matches: [{ path: { value: /path5 } }], @v1 \
                   }, { matches: [{ method: PATCH }], @v2 }, { matches: [{ headers: [{ name: version, value: four }] }], @v3 \
                   }",
        ],
        checks: &[
            ("POST /", "v1"),
            ("GET /", "v2"),
            ("HEAD /", "404"),
            ("GET /path1", "v1"),
            ("PUT / version=one", "v2"),
            ("POST /path2 version=two", "v3"),
            ("PATCH /path3", "v1"),
            ("DELETE /path4 version=three", "v1"),
            ("PUT /", "404"),
            ("DELETE /path4", "404"),
            ("PATCH /path5", "v1"),
            ("PATCH / version=four", "v2"),
        ],
    },
    Case {
        name: "named-rule",
        routes: &[
            "{ name: named-rule, matches: [{ path: { value: /named } }], @v1 }, { matches: [{ path: { value: /unnamed } \
                   }], @v2 }",
        ],
        checks: &[("GET /named", "v1"), ("GET /unnamed", "v2")],
    },
    Case {
        name: "request-headers",
        routes: &[
            "{ matches: [{ path: { value: /set } }], filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { \
                   set: [{ name: X-Header-Set, value: set-overwrites-values }] } }], @v1 }, { matches: [{ path: { value: \
                   /add } }], filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { add: [{ name: X-Header-Add, \
                   value: add-appends-values }] } }], @v1 }, { matches: [{ path: { value: /remove } }], filters: [{ type: \
                   RequestHeaderModifier, requestHeaderModifier: { remove: [X-Header-Remove] } }], @v1 }, { matches: [{ path: \
                   { value: /multiple } }], filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: \
                   X-Header-Set-1, value: header-set-1 }, { name: X-Header-Set-2, value: header-set-2 }], add: [{ name: \
                   X-Header-Add-1, value: header-add-1 }, { name: X-Header-Add-2, value: header-add-2 }, { name: \
                   X-Header-Add-3, value: header-add-3 }], remove: [X-Header-Remove-1, X-Header-Remove-2] } }], @v1 }, { \
                   matches: [{ path: { value: /case } }], filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { \
                   set: [{ name: X-Header-Set, value: header-set }], add: [{ name: X-Header-Add, value: header-add }], \
                   remove: [X-Header-Remove] } }], @v1 }",
        ],
        checks: &[
            (
                "GET /set Some-Other-Header=val",
                "v1 >x-header-set=set-overwrites-values >some-other-header=val",
            ),
            ("GET /set X-Header-Set=some-other-value", "v1 >x-header-set=set-overwrites-values"),
            ("GET /add", "v1 >x-header-add=add-appends-values"),
            (
                "GET /add X-Header-Add=some-other-value",
                "v1 >x-header-add=some-other-value,add-appends-values",
            ),
            ("GET /remove X-Header-Remove=val", "v1 >x-header-remove=-"),
            (
                "GET /multiple X-Header-Set-2=set-val-2 X-Header-Add-2=add-val-2 X-Header-Remove-2=remove-val-2 \
                 Another-Header=another-header-val",
                "v1 >x-header-set-1=header-set-1 >x-header-set-2=header-set-2 >x-header-add-1=header-add-1 \
                 >x-header-add-2=add-val-2,header-add-2 >x-header-add-3=header-add-3 >x-header-remove-1=- >x-header-remove-2=- \
                 >another-header=another-header-val",
            ),
            (
                "GET /case x-header-set=a x-header-add=b x-header-remove=c Another-Header=d",
                "v1 >x-header-set=header-set >x-header-add=b,header-add >x-header-remove=- >another-header=d",
            ),
        ],
    },
    Case {
        name: "backend-request-headers",
        routes: &[
            "{ backendRefs: [{ name: v1, port: 80, filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { \
                   set: [{ name: X-Header-Set, value: set-overwrites-values }], add: [{ name: X-Header-Add, value: \
                   add-appends-values }], remove: [X-Header-Remove] } }] }] }",
        ],
        checks: &[(
            "GET / X-Header-Set=a X-Header-Add=b X-Header-Remove=c",
            "v1 >x-header-set=set-overwrites-values >x-header-add=b,add-appends-values >x-header-remove=-",
        )],
    },
    Case {
        name: "response-headers",
        routes: &["{ matches: [{ path: { value: /multiple } }], filters: [{ type: ResponseHeaderModifier, \
                   responseHeaderModifier: { set: [{ name: X-Header-Set-1, value: header-set-1 }, { name: X-Header-Set-2, \
                   value: header-set-2 }], add: [{ name: X-Header-Add-1, value: header-add-1 }, { name: X-Header-Add-2, \
                   value: header-add-2 }], remove: [X-Header-Remove-1, X-Header-Remove-2] } }], @v1 }"],
        checks: &[(
            "GET /multiple x-test-field=X-Header-Set-2=set-val-2 x-test-field=X-Header-Add-2=add-val-2 \
             x-test-field=x-header-remove-2=remove-val-2 x-test-field=Another-Header=kept",
            "v1 <x-header-set-1=header-set-1 <x-header-set-2=header-set-2 <x-header-add-1=header-add-1 \
             <x-header-add-2=add-val-2,header-add-2 <x-header-remove-1=- <x-header-remove-2=- <another-header=kept",
        )],
    },
    Case {
        name: "redirect-host",
        routes: &[
            "{ matches: [{ path: { value: /hostname-redirect } }], filters: [{ type: RequestRedirect, requestRedirect: { \
                   hostname: example.org } }] }, { matches: [{ path: { value: /host-and-status } }], filters: [{ type: \
                   RequestRedirect, requestRedirect: { hostname: example.org, statusCode: 301 } }] }, { matches: [{ path: { \
                   value: /see-other } }], filters: [{ type: RequestRedirect, requestRedirect: { hostname: example.org, \
                   statusCode: 303 } }] }, { matches: [{ path: { value: /temporary } }], filters: [{ type: RequestRedirect, \
                   requestRedirect: { hostname: example.org, statusCode: 307 } }] }, { matches: [{ path: { value: /permanent \
                   } }], filters: [{ type: RequestRedirect, requestRedirect: { hostname: example.org, statusCode: 308 } }] }",
        ],
        checks: &[
            ("GET /hostname-redirect", "302 <location=http://example.org/hostname-redirect"),
            ("GET /host-and-status", "301 <location=http://example.org/host-and-status"),
            ("POST /see-other", "303 <location=http://example.org/see-other"),
            ("POST /temporary?x=1", "307 <location=http://example.org/temporary?x=1"),
            ("GET /permanent", "308 <location=http://example.org/permanent"),
        ],
    },
    Case {
        name: "redirect-path",
        routes: &[
            "{ matches: [{ path: { value: /original-prefix } }], filters: [{ type: RequestRedirect, requestRedirect: { \
                   path: { type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix } } }] }, { matches: [{ path: { \
                   value: /full } }], filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplaceFullPath, \
                   replaceFullPath: /full-path-replacement } } }] }, { matches: [{ path: { value: /path-and-host } }], \
                   filters: [{ type: RequestRedirect, requestRedirect: { hostname: example.org, path: { type: \
                   ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix } } }] }, { matches: [{ path: { value: \
                   /full-path-and-status } }], filters: [{ type: RequestRedirect, requestRedirect: { path: { type: \
                   ReplaceFullPath, replaceFullPath: /replacement-full }, statusCode: 301 } }] }",
        ],
        checks: &[
            (
                "GET /original-prefix/lemon",
                "302 <location=http://redirect-path.mesh/replacement-prefix/lemon",
            ),
            ("GET /full/path/original", "302 <location=http://redirect-path.mesh/full-path-replacement"),
            ("GET /path-and-host", "302 <location=http://example.org/replacement-prefix"),
            ("GET /full-path-and-status", "301 <location=http://redirect-path.mesh/replacement-full"),
        ],
    },
    Case {
        name: "redirect-port",
        routes: &[
            "{ matches: [{ path: { value: /port } }], filters: [{ type: RequestRedirect, requestRedirect: { port: 8083 } \
                   }] }, { matches: [{ path: { value: /port-and-host } }], filters: [{ type: RequestRedirect, \
                   requestRedirect: { port: 8083, hostname: example.org } }] }, { matches: [{ path: { value: \
                   /port-and-status } }], filters: [{ type: RequestRedirect, requestRedirect: { port: 8083, statusCode: 301 } \
                   }] }, { matches: [{ path: { value: /port-80 } }], filters: [{ type: RequestRedirect, requestRedirect: { \
                   port: 80, hostname: example.org } }] }",
        ],
        checks: &[
            ("GET /port", "302 <location=http://redirect-port.mesh:8083/port"),
            ("GET /port-and-host", "302 <location=http://example.org:8083/port-and-host"),
            ("GET /port-and-status", "301 <location=http://redirect-port.mesh:8083/port-and-status"),
            ("GET /port-80", "302 <location=http://example.org/port-80"),
        ],
    },
    Case {
        name: "redirect-scheme",
        routes: &[
            "{ matches: [{ path: { value: /scheme } }], filters: [{ type: RequestRedirect, requestRedirect: { scheme: \
                   https } }] }, { matches: [{ path: { value: /scheme-and-host } }], filters: [{ type: RequestRedirect, \
                   requestRedirect: { scheme: https, hostname: example.org } }] }, { matches: [{ path: { value: \
                   /scheme-and-status } }], filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, statusCode: \
                   301 } }] }, { matches: [{ path: { value: /scheme-and-port-443 } }], filters: [{ type: RequestRedirect, \
                   requestRedirect: { scheme: https, port: 443 } }] }, { matches: [{ path: { value: /scheme-and-port-8443 } \
                   }], filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, port: 8443, hostname: example.org \
                   } }] }",
        ],
        checks: &[
            ("GET /scheme", "302 <location=https://redirect-scheme.mesh/scheme"),
            ("GET /scheme-and-host", "302 <location=https://example.org/scheme-and-host"),
            ("GET /scheme-and-status", "301 <location=https://redirect-scheme.mesh/scheme-and-status"),
            ("GET /scheme-and-port-443", "302 <location=https://redirect-scheme.mesh/scheme-and-port-443"),
            ("GET /scheme-and-port-8443", "302 <location=https://example.org:8443/scheme-and-port-8443"),
        ],
    },
    Case {
        name: "rewrite-path",
        routes: &[
            "{ matches: [{ path: { value: /prefix/one } }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: \
                   ReplacePrefixMatch, replacePrefixMatch: /one } } }], @v1 }, { matches: [{ path: { value: /strip-prefix } \
                   }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } \
                   } }], @v1 }, { matches: [{ path: { value: /full/one } }], filters: [{ type: URLRewrite, urlRewrite: { \
                   path: { type: ReplaceFullPath, replaceFullPath: /one } } }], @v1 }, { matches: [{ path: { value: \
                   /prefix/and-headers } }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, \
                   replacePrefixMatch: /prefix } } }, { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: \
                   X-Header-Set, value: set-overwrites-values }], add: [{ name: X-Header-Add-Append, value: header-val-2 }], \
                   remove: [X-Header-Remove] } }], @v1 }",
        ],
        checks: &[
            ("GET /prefix/one/two", "v1 >target=/one/two"),
            ("GET /strip-prefix/three?x=1", "v1 >target=/three?x=1"),
            ("GET /strip-prefix", "v1 >target=/"),
            ("GET /full/one/two", "v1 >target=/one"),
            (
                "GET /prefix/and-headers/one X-Header-Remove=a X-Header-Add-Append=append-val-1 X-Header-Set=set-val",
                "v1 >target=/prefix/one >x-header-add-append=append-val-1,header-val-2 >x-header-set=set-overwrites-values \
                 >x-header-remove=-",
            ),
        ],
    },
    Case {
        name: "rewrite-host",
        routes: &[
            "{ matches: [{ path: { value: /one } }], filters: [{ type: URLRewrite, urlRewrite: { hostname: \
                   one.example.org } }], @v1 }, { backendRefs: [{ name: v2, port: 80, filters: [{ type: URLRewrite, \
                   urlRewrite: { hostname: example.org } }] }] }",
        ],
        checks: &[("GET /one", "v1 >host=one.example.org"), ("GET /two", "v2 >host=example.org")],
    },
    Case {
        name: "cors",
        routes: &[
            "{ matches: [{ path: { value: /cors-1 } }], filters: [{ type: CORS, cors: { allowOrigins: \
                   ['https://www.foo.com', 'https://*.bar.com'], allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1, \
                   x-header-2], exposeHeaders: [x-header-3, x-header-4], allowCredentials: true, maxAge: 3600 } }], @v1 }, { \
                   matches: [{ path: { value: /cors-2 } }], filters: [{ type: CORS, cors: { allowOrigins: \
                   ['https://www.foo.com'], allowMethods: ['*'] } }], @v1 }, { matches: [{ path: { value: /cors-3 } }], \
                   filters: [{ type: CORS, cors: { allowOrigins: ['*'], allowMethods: [PUT] } }], @v1 }",
        ],
        checks: &[
            (
                "OPTIONS /cors-1 origin=https://www.foo.com access-control-request-method=GET \
                 access-control-request-headers=x-header-1,x-header-2",
                "204 <access-control-allow-origin=https://www.foo.com <access-control-max-age=3600 \
                 <access-control-allow-credentials=true",
            ),
            (
                "OPTIONS /cors-1 origin=https://xpto.www.bar.com access-control-request-method=GET",
                "204 <access-control-allow-origin=https://xpto.www.bar.com",
            ),
            (
                "OPTIONS /cors-1 origin=https://foobar.com access-control-request-method=GET",
                "204 <access-control-allow-origin=-",
            ),
            ("GET /cors-1 origin=https://www.bar.com", "v1 <access-control-allow-origin=https://www.bar.com"),
            ("GET /cors-1 origin=https://foobar.com", "v1 <access-control-allow-origin=-"),
            (
                "OPTIONS /cors-2 origin=https://www.foo.com access-control-request-method=POST",
                "204 <access-control-allow-origin=https://www.foo.com <access-control-allow-credentials=-",
            ),
            ("PUT /cors-3 origin=https://foobar.com:12345", "v1 <access-control-allow-credentials=-"),
        ],
    },
    Case {
        name: "no-backend",
        routes: &[
            "{ matches: [{ path: { value: /gone } }], backendRefs: [{ name: gone, port: 80 }] }, { matches: [{ path: { \
                   value: /port } }], backendRefs: [{ name: v1, port: 81 }] }, { matches: [{ path: { value: /zero } }], \
                   backendRefs: [{ name: v1, port: 80, weight: 0 }, { name: v2, port: 80, weight: 0 }] }, { matches: [{ path: \
                   { value: /one-zero } }], backendRefs: [{ name: v1, port: 80, weight: 0 }, { name: v2, port: 80 }] }",
        ],
        checks: &[
            ("GET /gone", "500 <x-weft-reason=backend_invalid"),
            ("GET /port", "500 <x-weft-reason=backend_invalid"),
            ("GET /zero", "500 <x-weft-reason=backend_invalid"),
            ("GET /one-zero", "v2"),
            ("GET /", "404 <x-weft-reason=route_not_found"),
        ],
    },
    Case {
        name: "split",
        routes: &[
            "{ matches: [{ path: { type: Exact, value: /v1 } }], @v1 }, { matches: [{ path: { type: Exact, value: /v2 } \
                   }], @v2 }",
        ],
        checks: &[("GET /v1", "v1"), ("GET /v2", "v2")],
    },
];

/// Three versions, and a client in each of two namespaces.
async fn mesh(documents: &str) -> (Mesh, [Application; 3]) {
    let versions = ["v1", "v2", "v3"];
    let [one, two, three] = versions.map(Application::start);
    let applications = [one.await, two.await, three.await];
    let mut builder = Builder::default();
    for (version, application) in versions.into_iter().zip(&applications) {
        let workload = Workload::new(&format!("mesh/{version}-1")).account(version).label("app", version);
        builder =
            builder.service(&format!("mesh/{version}")).workload(workload.serves(application.address()));
    }
    let mesh = builder
        .service_of("mesh/front", "v1", None)
        .workload(Workload::new("mesh/client-1").calls("mesh/front", 80))
        .workload(Workload::new("consumer/client-1").calls("mesh/front", 80))
        .policy("routes", documents)
        .start()
        .await;
    (mesh, applications)
}

fn expanded(rules: &str) -> String {
    ["v1", "v2", "v3"].iter().fold(rules.to_owned(), |rules, version| {
        rules.replace(&format!("@{version}"), &format!("backendRefs: [{{ name: {version}, port: 80 }}]"))
    })
}

fn service(name: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: mesh }}\nspec: {{ selector: {{ app: v1 }}, \
         ports: [{ports}] }}\n---\n"
    )
}

/// A route for a Service of the namespace `mesh`. `parent` is more of its reference.
fn route(kind: &str, namespace: &str, name: &str, service: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec: \
         {{ parentRefs: [{{ group: '', kind: Service, name: {service}, namespace: mesh{parent} }}], rules: [{}] }}\n---\n",
        expanded(rules)
    )
}

fn pairs(text: &str) -> (Vec<&str>, Vec<(&str, &str)>) {
    let words = text.split(' ').filter(|word| !word.is_empty());
    let (fields, plain): (Vec<_>, Vec<_>) =
        words.partition(|word| !word.starts_with('/') && word.contains('='));
    (plain, fields.into_iter().filter_map(|field| field.split_once('=')).collect())
}

/// All values of a name, joined. `None`: there is none.
fn values(fields: &[(String, String)], name: &str) -> Option<String> {
    let all: Vec<_> = fields.iter().filter(|(held, _)| held.eq_ignore_ascii_case(name)).collect();
    (!all.is_empty()).then(|| all.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(","))
}

fn check(expected: &str, response: &Response, applications: &[Application], id: &str) -> Result<(), String> {
    let (plain, fields) = pairs(expected);
    let by_application = plain[0].starts_with('v');
    let came = if by_application { response.application().to_owned() } else { response.status().to_string() };
    if came != plain[0] {
        return Err(format!("{} {:?}", response.status(), response.reason()));
    }
    for (name, wanted) in fields {
        let (side, name) = name.split_at(1);
        let found = if side == "<" {
            values(&response.head.fields, name)
        } else {
            let seen =
                applications.iter().find(|application| application.count(id) > 0).expect("it was seen");
            let seen = seen.request(id);
            if name == "target" { Some(seen.target) } else { values(&seen.fields, name) }
        };
        if found.as_deref().unwrap_or("-") != wanted {
            return Err(format!("{side}{name} is {found:?}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_case_comes_out_as_the_specification_says() {
    let mut documents = String::new();
    for case in CASES {
        documents += &service(case.name, "{ port: 80, targetPort: serving, appProtocol: http }");
        for (index, rules) in case.routes.iter().enumerate() {
            documents += &route("HTTPRoute", "mesh", &format!("{}-{index}", case.name), case.name, "", rules);
        }
    }
    let (mesh, applications) = mesh(&documents).await;
    let client = mesh.client("mesh/client-1");
    let (mut failures, mut checked) = (Vec::new(), 0);
    for case in CASES {
        for (index, (asked, expected)) in case.checks.iter().enumerate() {
            let (plain, fields) = pairs(asked);
            let id = format!("{}-{index}", case.name);
            let url = format!("http://{}.mesh{}", case.name, plain[1]);
            let mut request = Request::new(plain[0], &url).id(&id);
            for (name, value) in fields {
                request = request.field(name, value);
            }
            let response = client.send(&request).await;
            if let Err(problem) = check(expected, &response, &applications, &id) {
                failures.push(format!("{}: {asked}: expected {expected}: {problem}", case.name));
            }
            checked += 1;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(checked > 110, "{checked}");
}

const ADDS: &str = "{ filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: X-Header-Set, value: \
                    set }] } }] }";

async fn added(mesh: &Mesh, uid: &str, url: &str) -> bool {
    let response = mesh.client(uid).get(url).await;
    response.passed();
    response.field("x-header-set") == Some("set")
}

#[tokio::test]
async fn a_route_holds_for_the_port_that_it_names() {
    let port = |number: u16| {
        format!("{{ name: p{number}, port: {number}, targetPort: serving, appProtocol: http }}")
    };
    let documents = service("ports", &format!("{}, {}", port(80), port(8080)))
        + &route("HTTPRoute", "mesh", "ports", "ports", ", port: 80", ADDS);
    let (mesh, _applications) = mesh(&documents).await;
    assert!(added(&mesh, "mesh/client-1", "http://ports.mesh/").await);
    assert!(!added(&mesh, "mesh/client-1", "http://ports.mesh:8080/").await);
}

#[tokio::test]
async fn a_route_holds_for_the_service_that_is_called_and_for_no_other_way_to_its_workloads() {
    let documents = service("echo", "{ port: 80, targetPort: serving, appProtocol: http }")
        + &route("HTTPRoute", "mesh", "front", "front", "", ADDS);
    let (mesh, _applications) = mesh(&documents).await;
    assert!(added(&mesh, "mesh/client-1", "http://front.mesh/").await);
    assert!(!added(&mesh, "mesh/client-1", "http://echo.mesh/").await);
    // A connection to the Service is to it, whatever host a request names.
    let front = mesh.client_of("mesh/client-1", "mesh/front");
    let response = front.send(&Request::get("http://front.mesh/").field("host", "other.example")).await;
    response.passed();
    assert_eq!(response.field("x-header-set"), Some("set"));
}

#[tokio::test]
async fn a_consumers_route_holds_for_its_namespace_alone() {
    let documents = route("HTTPRoute", "consumer", "own", "front", "", ADDS)
        // Of another type than the producer's, which is nobody's business.
        + &route("GRPCRoute", "mesh", "calls", "front", "", "{ @v1 }");
    let (mesh, _applications) = mesh(&documents).await;
    assert!(added(&mesh, "consumer/client-1", "http://front.mesh/").await);
    // The producer's GRPCRoute: what is no call has no route.
    mesh.client("mesh/client-1").get("http://front.mesh/").await.refused_with(Reason::RouteNotFound);
}

#[tokio::test]
async fn weights_are_shares_of_the_requests() {
    const REQUESTS: usize = 600;
    let split = "backendRefs: [{ name: v1, port: 80, weight: 70 }, { name: v2, port: 80, weight: 30 }, { name: v3, port: 80, \
                 weight: 0 }]";
    let invalid = "backendRefs: [{ name: v1, port: 80 }, { name: gone, port: 80 }]";
    let documents = service("calls", "{ port: 80, targetPort: serving, appProtocol: grpc }")
        + &route("GRPCRoute", "mesh", "calls", "calls", "", &format!("{{ {split} }}"))
        + &route(
            "HTTPRoute",
            "mesh",
            "front",
            "front",
            "",
            &format!("{{ matches: [{{ path: {{ value: /half }} }}], {invalid} }}, {{ {split} }}"),
        );
    let (mesh, applications) = mesh(&documents).await;
    let client = mesh.client("mesh/client-1");
    // 420 of 600 with a deviation of 11: seven deviations either way.
    let fits = |counts: [usize; 3]| {
        assert!((340..=500).contains(&counts[0]), "{counts:?}");
        assert_eq!((counts[0] + counts[1], counts[2]), (REQUESTS, 0));
    };
    let counts = |id: &str| [0, 1, 2].map(|index: usize| applications[index].count(id));
    let mut connection = client.connect().await.unwrap();
    for _ in 0..REQUESTS {
        connection.send(&Request::get("http://front.mesh/").id("http")).await.unwrap().passed();
    }
    fits(counts("http"));
    let calls = Connection::open(client.address()).await;
    for _ in 0..REQUESTS {
        let request = grpc("calls.mesh", "/a.B/C").header("x-request-id", "grpc").body(()).unwrap();
        let whole = calls.start(request, true).await.unwrap().whole().await.unwrap();
        assert_eq!(whole.field("x-weft-reason"), None);
    }
    fits(counts("grpc"));
    // A backend that is not there keeps its share, and is answered 500.
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..200 {
        let response = connection.send(&Request::get("http://front.mesh/half")).await.unwrap();
        *statuses.entry(response.status()).or_default() += 1;
    }
    // 100 of 200 with a deviation of 7.
    assert!((50..=150).contains(&statuses[&500]), "{statuses:?}");
    assert_eq!(statuses[&200] + statuses[&500], 200);
}

#[tokio::test]
async fn every_mirror_gets_its_share_of_copies() {
    const REQUESTS: usize = 400;
    let rules = "{ filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: v2, port: 80 } } }, { type: \
                 RequestMirror, requestMirror: { backendRef: { name: v3, port: 80 }, fraction: { numerator: 1, denominator: 5 \
                 } } }], @v1 }";
    let (mesh, applications) = mesh(&route("HTTPRoute", "mesh", "front", "front", "", rules)).await;
    let mut connection = mesh.client("mesh/client-1").connect().await.unwrap();
    for _ in 0..REQUESTS {
        let response = connection.send(&Request::get("http://front.mesh/m").id("mirrored")).await.unwrap();
        response.passed();
        assert_eq!(response.application(), "v1");
    }
    assert_eq!(applications[0].count("mirrored"), REQUESTS);
    let under_way = async || {
        let metrics = mesh.proxy("mesh/client-1").metrics().await;
        metrics.sum("weft_outbound_mirrors_total", &[("outcome", "sent")])
    };
    wait::until("every copy has arrived", async || {
        let copies = applications[1].count("mirrored") + applications[2].count("mirrored");
        applications[1].count("mirrored") == REQUESTS && under_way().await == copies as f64
    })
    .await;
    // 80 of 400 with a deviation of 8.
    let share = applications[2].count("mirrored");
    assert!((25..=135).contains(&share), "{share}");
}

#[tokio::test]
async fn calls_are_matched_and_edited() {
    const ECHO: &str = "gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";
    let rules = format!(
        "{{ matches: [{{ method: {{ service: {ECHO}, method: Echo }} }}], filters: [{{ type: RequestHeaderModifier, \
         requestHeaderModifier: {{ set: [{{ name: X-Header-Set, value: set }}], remove: [X-Header-Remove] }} }}], @v1 }}, {{ \
         matches: [{{ method: {{ service: {ECHO}, method: EchoTwo }} }}], @v2 }}, {{ matches: [{{ headers: [{{ name: version, \
         value: two }}, {{ name: color, value: orange }}] }}], @v1 }}, {{ matches: [{{ headers: [{{ name: version, value: two \
         }}] }}], @v2 }}"
    );
    let documents = service("calls", "{ port: 80, targetPort: serving, appProtocol: grpc }")
        + &route("GRPCRoute", "mesh", "calls", "calls", "", &rules);
    let (mesh, applications) = mesh(&documents).await;
    let connection = Connection::open(mesh.client("mesh/client-1").address()).await;
    for (index, (method, fields, expected)) in [
        ("Echo", &[("x-header-set", "a"), ("x-header-remove", "b")][..], Some(0)),
        ("EchoTwo", &[], Some(1)),
        ("EchoThree", &[], None),
        ("EchoThree", &[("version", "two")], Some(1)),
        ("EchoThree", &[("version", "two"), ("color", "orange")], Some(0)),
        ("EchoThree", &[("color", "orange")], None),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("call-{index}");
        let mut request = grpc("calls.mesh", &format!("/{ECHO}/{method}")).header("x-request-id", &id);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let whole = connection.start(request.body(()).unwrap(), true).await.unwrap().whole().await.unwrap();
        match expected {
            Some(version) => {
                assert_eq!(applications[version].count(&id), 1, "{method} {fields:?}");
            }
            None => assert_eq!(whole.field("grpc-status"), Some("12"), "{method} {fields:?}"),
        }
    }
    let edited = applications[0].request("call-0");
    assert_eq!((edited.field("x-header-set"), edited.field("x-header-remove")), (Some("set"), None));
}
