//! Figures that a test measured: shown with `--nocapture`, never asserted, since the machine may be busy.

/// Shows one.
#[allow(clippy::print_stdout, reason = "what was measured is for people to read")]
pub fn show(text: &str) {
    println!("measured: {text}");
}
