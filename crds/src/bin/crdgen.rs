//! Writes the generated files: `crdgen DIR` writes the CustomResourceDefinitions into `DIR`, `crdgen --check DIR` fails
//! when what is there differs.

use std::path::Path;
use std::process::ExitCode;

use buildpools_crds::crd;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (check, dir) = match args.as_slice() {
        [flag, dir] if flag == "--check" => (true, dir),
        [dir] => (false, dir),
        _ => {
            eprintln!("usage: crdgen [--check] DIR");
            return ExitCode::from(2);
        }
    };
    match run(check, Path::new(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool, dir: &Path) -> Result<(), String> {
    for (name, crd) in crd::all() {
        let path = dir.join(name);
        let body = serde_yaml::to_string(&crd).map_err(|e| format!("{name}: {e}"))?;
        let text = format!("# Generated from crds/src by `make generate`. Do not edit.\n{body}");
        if check {
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            if found != text {
                return Err(format!("{} is not what the types say: run `make generate`", path.display()));
            }
        } else {
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(())
}
