//! What every subcommand that judges policies begins with: files read, compiled, and refused if
//! there is an error in them, since a verdict on a half-understood mesh is no verdict.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use weft_config::{Compilation, Severity, SourceFile, compile, read_paths, render};

/// The exit code of what cannot be judged at all, as clap's for bad usage.
pub(crate) const UNUSABLE: u8 = 2;

/// Reads and compiles, whatever the diagnostics.
pub(crate) fn read(paths: &[PathBuf]) -> Result<(Vec<SourceFile>, Compilation), String> {
    let files = read_paths(paths).map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{error}{cause}")
    })?;
    if files.is_empty() {
        let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(format!("{} holds no *.yaml or *.yml", shown.join(" ")));
    }
    let compilation = compile(&files);
    Ok((files, compilation))
}

/// Reads and compiles what must have no errors.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Compilation, String> {
    let (files, compilation) = read(paths)?;
    sound(compilation, &files)
}

/// What has no errors.
pub(crate) fn sound(compilation: Compilation, files: &[SourceFile]) -> Result<Compilation, String> {
    if !compilation.has_errors() {
        return Ok(compilation);
    }
    let mut errors = compilation.diagnostics;
    errors.retain(|diagnostic| diagnostic.severity == Severity::Error);
    let shown = render(&errors, files, false);
    Err(format!("the policies have errors, so nothing is judged:\n\n{}", shown.trim_end()))
}

/// Whether standard output shows colours.
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints an answer with its exit code, or why there is none.
pub(crate) fn finish(command: &str, answer: Result<(String, u8), String>) -> ExitCode {
    match answer {
        Ok((text, code)) => {
            // Whoever closed the pipe has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(message) => {
            let _ = writeln!(io::stderr(), "weft {command}: {message}");
            ExitCode::from(UNUSABLE)
        }
    }
}

/// A JSON document as it is printed.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    // Text, numbers and lists of them always have a JSON form.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
