//! Policies that are in force, not only written.
//!
//! A request that is under way while the policy changes may be answered, refused or cut off; all three are
//! right. So a test that asks again and again until the answer changes may meet any of them. Here it waits
//! until every proxy has acknowledged the new generation: whatever is asked from then on is judged by it.

use super::Mesh;
use crate::wait;

impl Mesh {
    /// Writes or replaces a policy file, and waits until every proxy enforces it. It must change
    /// something that a proxy is told as part of a generation.
    pub async fn enforce_policy(&self, name: &str, text: &str) {
        let before = self.generation().await;
        self.write_policy(name, text);
        self.enforced_after(&before).await;
    }

    /// Removes a policy file, and waits until no proxy enforces it any more.
    pub async fn enforce_removal(&self, name: &str) {
        let before = self.generation().await;
        self.remove_policy(name);
        self.enforced_after(&before).await;
    }

    /// The generation that the control API gives now.
    pub async fn generation(&self) -> String {
        self.status().await["generation"].as_str().expect("there is a generation").to_owned()
    }

    /// Waits until every connected proxy enforces one generation that is not `before`.
    pub async fn enforced_after(&self, before: &str) {
        wait::until(&format!("every proxy enforces what came after {before}"), async || {
            let status = self.status().await;
            let problems = &status["source"]["problems"];
            assert_eq!(problems.as_array().map(Vec::len), Some(0), "{problems:#}");
            let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
            status["generation"] != before
                && !proxies.is_empty()
                && proxies
                    .iter()
                    .all(|proxy| proxy["current"] == true && proxy["generation"] == status["generation"])
        })
        .await;
    }
}
