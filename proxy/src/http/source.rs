//! Our header fields as the model's decisions look at them.

use super::Headers;
use weft_model::request::HeaderSource;

impl HeaderSource for Headers {
    fn visit_values(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for value in self.find_all(name) {
            if !visit(value) {
                return;
            }
        }
    }
}
