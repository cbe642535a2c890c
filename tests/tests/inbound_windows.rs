//! There is no moment in which less is enforced: not while policies are replaced, not while they are
//! broken, not while a proxy starts.

use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request};
use weft_tests::mesh::{Builder, Mesh, Workload, authorization};
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";

const ADMIN: &str = "[{ from: [{ source: { principals: [cluster.local/ns/ops/sa/admin] } }] }]";

async fn cart(application: &Application, policy: &str) -> Mesh {
    Builder::pair(application.address())
        .workload(Workload::new("ops/admin-1"))
        .policy("policy", policy)
        .start()
        .await
}

/// Somebody who asks without a break, and what every answer was.
struct Asking {
    stop: watch::Sender<bool>,
    task: JoinHandle<Vec<u16>>,
}

impl Asking {
    fn start(client: Client) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = wait::spawn(async move {
            let mut seen = Vec::new();
            while !*stopped.borrow() {
                // A connection may break while a proxy is restarted: that is no answer.
                if let Ok(response) = client.try_send(&Request::get(CART)).await {
                    seen.push(response.status());
                }
                tokio::task::yield_now().await;
            }
            seen
        });
        Self { stop, task }
    }

    async fn finish(self) -> Vec<u16> {
        self.stop.send_replace(true);
        wait::within("the last answer", self.task).await.expect("asking must not fail")
    }
}

#[tokio::test]
async fn who_is_denied_stays_denied_while_policies_are_replaced_renamed_and_broken() {
    let application = Application::start("cart-1").await;
    let mesh = cart(&application, &authorization("first", "cart", "DENY", ADMIN)).await;
    let web = mesh.client("shop/web-1");
    let asking = Asking::start(mesh.client("ops/admin-1"));
    for round in 0..12 {
        let by_namespace = "[{ from: [{ source: { namespaces: [ops] } }] }]";
        let text = match round % 4 {
            0 => authorization("second", "cart", "DENY", by_namespace),
            1 => format!(
                "{}---\n{}",
                authorization("everybody", "cart", "ALLOW", "[{}]"),
                authorization("third", "cart", "DENY", ADMIN)
            ),
            2 => {
                authorization("only-web", "cart", "ALLOW", "[{ from: [{ source: { namespaces: [shop] } }] }]")
            }
            // An unknown key: the file keeps what was good last.
            _ => authorization("broken", "cart", "DENY", ADMIN).replace("principals", "principal"),
        };
        mesh.write_policy("policy", &text);
        let path = format!("/round-{round}");
        let rules = format!("[{{ to: [{{ operation: {{ paths: ['{path}'] }} }}] }}]");
        mesh.write_policy("mark", &authorization("mark", "cart", "DENY", &rules));
        let url = format!("http://cart.shop{path}");
        wait::until("the round is enforced", async || web.is_answered(&url, 403).await).await;
        web.get(CART).await.passed();
    }
    let seen = asking.finish().await;
    assert!(seen.len() >= 12, "{} answers", seen.len());
    assert!(seen.iter().all(|status| *status == 403), "{seen:?}");
    let from_admin = application.requests().into_iter().filter(|request| {
        request.field("x-forwarded-client-cert").is_some_and(|proven| proven.contains("ns/ops/sa/admin"))
    });
    assert_eq!(from_admin.count(), 0, "nothing of it reached the application");
}

#[tokio::test]
async fn a_proxy_that_starts_admits_nobody_before_it_knows_who_may() {
    let application = Application::start("cart-1").await;
    let mut mesh = cart(&application, &authorization("first", "cart", "DENY", ADMIN)).await;
    let asking = Asking::start(mesh.client("ops/admin-1"));
    for _ in 0..3 {
        let server = mesh.proxy_mut("shop/cart-1");
        server.kill();
        server.start().await;
        mesh.client("shop/web-1").get(CART).await.passed();
    }
    let seen = asking.finish().await;
    assert!(!seen.is_empty() && !seen.contains(&200), "{seen:?}");
}
