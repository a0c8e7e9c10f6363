//! cli
use std::process::ExitCode;
/// main
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if crate::sandbox::is_init(args.next().as_deref()) {
        crate::sandbox::init_main()
    }
    // throw-away
    let args: Vec<String> = args.map(|a| a.into_string().unwrap()).collect();
    let lowers = args[0].split(':').map(Into::into).collect();
    let b = crate::sandbox::Bundle {
        lowers,
        argv: args[1..].to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/".into(),
        hostname: "x".into(),
        input: None,
        secrets: vec![("K".into(), b"v".to_vec())],
        confinement: crate::policy::Confinement {
            allow_degraded: [crate::policy::Promise::Memory, crate::policy::Promise::Cpu].into(),
            ..Default::default()
        },
    };
    match crate::sandbox::run(&b, crate::sandbox::Sink::Inherit) {
        Ok(f) => {
            eprintln!("{:?} {:?} {:?}", f.end, f.times, f.usage);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e} {e:?}");
            ExitCode::FAILURE
        }
    }
}
