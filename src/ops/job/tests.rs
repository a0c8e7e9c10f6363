use super::*;
use crate::policy::{Bytes, Confinement};

fn machine(text: &str) -> RunSection {
    RunSection::parse(text).unwrap()
}

#[test]
fn the_documented_job_has_every_key_and_is_read() {
    let document = include_str!("../../../docs/formats.md");
    let example = document
        .split("```json")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let value: serde_json::Value = serde_json::from_str(example).unwrap();
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    let unknown = serde_json::from_str::<Job>(r#"{"image": "a:1", "no such key": 1}"#).unwrap_err();
    let unknown = unknown.to_string();
    let known: Vec<&str> = unknown.split('`').skip(3).step_by(2).collect();
    assert_eq!(known.len(), keys.len());
    for known in known {
        assert!(keys.iter().any(|key| *key == known), "{known} is not documented");
    }
    let wanted = parse(example).unwrap();
    assert_eq!(wanted.reference.unwrap().to_string(), "series:1");
    assert_eq!(wanted.pull, Some(Pull::Missing));
}

/// Every limit takes four values, one from each source: arguments over job over configuration over defaults.
#[test]
fn arguments_count_over_the_job_over_the_configuration_over_the_defaults() {
    let value = |name: &str, n: u32| match name {
        "memory" | "tmp_size" | "shm_size" | "output_size" | "output_limit" | "input_limit" => format!("\"{n}M\""),
        "timeout" | "grace" => format!("\"{n}s\""),
        _ => n.to_string(),
    };
    let read = |text: &str| parse(text).unwrap();
    let job = |text: &str| read(&format!("{{\"image\": \"a:1\"{text}}}"));
    macro_rules! each {
        ($($(#[$doc:meta])* $name:ident: $given:ty => $of:ty = $default:expr, $word:literal;)*) => {$(
            let name = stringify!($name);
            let configured = machine(&format!("{name} = {}\n", value(name, 2)));
            let asked = || job(&format!(", \"{name}\": {}", value(name, 3)));
            let typed = || Wanted { reference: None, ..job(&format!(", \"{name}\": {}", value(name, 4))) };
            let of = |n: u32| job(&format!(", \"{name}\": {}", value(name, n))).limits.$name.unwrap().into();
            let made = |wanted: Wanted, machine: &RunSection| {
                wanted.request(machine, &bounds("")).unwrap().confinement
            };
            let (none, default): (_, $of) = (machine(""), $default);
            assert_eq!(made(job(""), &none), Confinement::default());
            assert_eq!(made(job(""), &none).$name, default);
            let (two, three, four): ($of, $of, $of) = (of(2), of(3), of(4));
            assert_eq!(made(job(""), &configured).$name, two);
            assert_eq!(made(asked(), &none).$name, three);
            assert_eq!(made(asked(), &configured).$name, three);
            assert_eq!(made(typed().over(job("")), &configured).$name, four);
            assert_eq!(made(typed().over(asked()), &configured).$name, four);
            assert_eq!(made(Wanted::default().over(asked()), &configured).$name, three);
        )*};
    }
    with_limits!(each);
}

#[test]
fn lists_of_both_count_and_the_arguments_come_last() {
    let job = parse(
        r#"{"image": "a:1", "args": ["1"], "input": "/i", "output": "/o", "env": {"A": "1"}, "secrets": {"K": "/k"},
            "network": "egress", "egress": ["a.example:1"], "allow_degraded": ["memory"], "pull": "never"}"#,
    )
    .unwrap();
    let typed = parse(
        r#"{"image": "b:1", "args": ["2"], "input": "/i2", "env": {"A": "2"}, "secrets": {"L": "/l"},
            "egress": ["b.example:1"], "allow_degraded": ["cpu"], "pull": "missing"}"#,
    )
    .unwrap();
    let both = typed.over(job);
    assert_eq!(both.args, ["1", "2"]);
    assert_eq!(
        both.env,
        [("A", "1"), ("A", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    let names: Vec<&str> = both.secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, ["K", "L"]);
    assert_eq!((both.input, both.output), (Some("/i2".into()), Some("/o".into())));
    assert_eq!(both.network, Some(NetworkMode::Egress));
    assert_eq!(both.egress.len(), 2);
    assert_eq!(both.only_degraded, Some(vec![Promise::Cpu]));
    assert_eq!(both.pull, Some(Pull::Missing));
    assert_eq!(both.reference.unwrap().to_string(), "b:1");
}

#[test]
fn what_makes_the_container_is_said_by_the_arguments_the_job_or_the_machine() {
    let chosen = |typed: Option<Runtime>, job: &str, machine_text: &str| {
        let arguments = Wanted {
            runtime: typed,
            ..Wanted::default()
        };
        let wanted = arguments.over(parse(&format!("{{\"image\": \"a:1\"{job}}}")).unwrap());
        wanted
            .request(&machine(machine_text), &bounds(""))
            .unwrap()
            .confinement
            .runtime
    };
    let native = r#", "runtime": "native""#;
    assert_eq!(chosen(None, "", ""), Runtime::default());
    assert_eq!(chosen(None, native, ""), Runtime::Native);
    assert_eq!(chosen(None, "", "runtime = \"native\"\n"), Runtime::Native);
    let default = Runtime::default();
    assert_eq!(
        chosen(None, &format!(", \"runtime\": \"{default}\""), "runtime = \"native\"\n"),
        default
    );
    assert_eq!(chosen(Some(default), native, "runtime = \"native\"\n"), default);
    assert!(parse(r#"{"image": "a:1", "runtime": "runc"}"#).is_err());
}

fn bounds(text: &str) -> LimitsSection {
    LimitsSection::parse(text).unwrap()
}

#[test]
fn a_job_accepts_losses_in_place_of_the_machines_and_within_them_and_arguments_any() {
    let allowed = |job: &str, machine_text: &str, typed: &[Promise]| {
        let arguments = Wanted {
            allow_degraded: typed.to_vec(),
            ..Wanted::default()
        };
        let wanted = arguments.over(parse(&format!("{{\"image\": \"a:1\"{job}}}")).unwrap());
        let request = wanted.request(&machine(machine_text), &bounds(""));
        request.map(|request| request.confinement.allow_degraded.into_iter().collect::<Vec<_>>())
    };
    let both = "allow_degraded = [\"memory\", \"cpu\"]\n";
    let (memory, cpu) = (Promise::Memory, Promise::Cpu);
    assert_eq!(allowed("", both, &[]).unwrap(), [memory, cpu]);
    assert_eq!(allowed(r#", "allow_degraded": []"#, both, &[]).unwrap(), []);
    assert_eq!(allowed(r#", "allow_degraded": ["cpu"]"#, both, &[]).unwrap(), [cpu]);
    assert_eq!(
        allowed(r#", "allow_degraded": ["cpu"]"#, both, &[memory]).unwrap(),
        [memory, cpu]
    );
    assert_eq!(
        allowed(r#", "allow_degraded": ["cpu"]"#, "", &[]).unwrap(),
        [cpu],
        "nobody says"
    );
    assert_eq!(allowed("", "allow_degraded = []\n", &[cpu]).unwrap(), [cpu]);
    for machine in [both, "allow_degraded = []\n"] {
        let error = allowed(r#", "allow_degraded": ["cpu", "landlock"]"#, machine, &[]).unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Refused, Code::NotAllowed));
        assert!(matches!(
            error,
            JobError::Degraded {
                promise: Promise::Landlock | Promise::Cpu,
                ..
            }
        ));
    }
}

#[test]
fn what_is_over_a_bound_of_the_machine_is_refused_by_name() {
    let bounds = bounds("memory = \"100M\"\nenv = [\"A\"]\ninput_roots = [\"/usr\"]\n");
    let request = |job: &str| {
        let job = parse(&format!("{{\"image\": \"a:1\"{job}}}")).unwrap();
        job.request(&machine(""), &bounds)
    };
    assert_eq!(request("").unwrap().confinement.memory, Bytes(100 << 20));
    assert!(request(r#", "memory": "99M", "env": {"A": ""}, "input": "/usr/share""#).is_ok());
    for (job, says) in [
        (r#", "memory": "101M""#, "memory: 101M is over what"),
        (r#", "env": {"B": ""}"#, "env: B is over what"),
        (r#", "secret_env": {"C": "/c"}"#, "env: C is over what"),
        (r#", "input": "/usr/../etc""#, "input_roots: /etc is over what"),
    ] {
        let error = request(job).unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Refused, Code::NotAllowed));
        assert!(error.to_string().starts_with(says), "{error}");
    }
    assert!(request(r#", "secrets": {"C": "/c"}"#).is_ok(), "a file is no variable");
}

#[test]
fn another_schema_is_refused_by_its_number_whatever_else_is_there() {
    assert!(parse(r#"{"schema": 1, "image": "a:1"}"#).is_ok());
    for (schema, says) in [("2", "got 2"), ("\"1\"", "got \"1\""), ("1.5", "got 1.5")] {
        let error = parse(&format!(r#"{{"schema": {schema}, "image": 7, "new": 1}}"#)).unwrap_err();
        assert!(error.contains(says) && error.contains("reads 1"), "{error}");
    }
}

#[test]
fn refusals_say_the_document_and_the_rule() {
    for (text, says) in [
        ("{}", "the key `image` is missing"),
        (r#"{"image": "Not A Reference"}"#, "image: "),
        (r#"{"image": "a:1", "imgae": 1}"#, "unknown field `imgae`"),
        (
            r#"{"image": "a:1", "cpus": 0}"#,
            "want a number of cores from 0.01 to 1024",
        ),
        (r#"{"image": "a:1", "pids": 4097}"#, "want a number from 1 to 4096"),
        (r#"{"image": "a:1", "memory": 1}"#, "it is 1 B, at least 64K is needed"),
        (
            r#"{"image": "a:1", "tmp_size": "0"}"#,
            "it is 0 B, at least 64K is needed",
        ),
        (
            r#"{"image": "a:1", "output_size": "0"}"#,
            "it is 0 B, at least 64K is needed",
        ),
        (r#"{"image": "a:1", "timeout": "soon"}"#, "parse time \"soon\""),
        (r#"{"image": "a:1", "timeout": 0}"#, "parse time \"0\""),
        (r#"{"image": "a:1", "timeout": [5]}"#, "expected a time such as"),
        (
            r#"{"image": "a:1", "cpus": [2]}"#,
            "cpus: expected a number such as 1.5, not a list (line 1)",
        ),
        (
            r#"{"image": "a:1", "args": "x"}"#,
            "args: expected a list such as [\"a\"], not the text \"x\"",
        ),
        (
            r#"{"image": 7}"#,
            "image: expected a text such as \"a\", not the number 7",
        ),
        ("[]", "it is no JSON object"),
        ("\"a:1\"", "it is no JSON object"),
        (r#"{"image": "a:1", "grace": "0"}"#, "parse time \"0\""),
        (r#"{"image": "a:1", "secrets": {"K": "fd:x"}}"#, "secret \"K\": "),
        (r#"{"image": "a:1", "pull": "soon"}"#, "pull: unknown word `soon`"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
    for (text, says) in [
        (
            r#"{"image": "a:1", "pull": "always"}"#,
            "pull always: a:1 is an image of this store alone; one of a registry is called HOST/REPOSITORY[:TAG]",
        ),
        (
            r#"{"image": "a:1", "network": "egress"}"#,
            "network egress needs at least one egress HOST:PORT: `--egress example.org:443`, or \"egress\": [\"example.org:443\"] in a job",
        ),
        (
            r#"{"image": "a:1", "egress": ["a.example:1"]}"#,
            "egress HOST:PORT needs the network as well: `--network egress`, or \"network\": \"egress\" in a job",
        ),
    ] {
        let error = parse(text).unwrap().request(&machine(""), &bounds("")).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (says, Kind::Usage));
    }
    let twice = parse(r#"{"image": "a:1", "secrets": {"K": "/k"}}"#).unwrap();
    let error = twice
        .clone()
        .over(twice)
        .request(&machine(""), &bounds(""))
        .unwrap_err();
    assert_eq!(error.to_string(), "secret \"K\" is given twice");
    let error = Wanted::default().request(&machine(""), &bounds("")).unwrap_err();
    assert_eq!(error.to_string(), "run needs an image");
    let error = read_job(Path::new("/nonexistent/job.json")).unwrap_err();
    assert_eq!(error.to_string(), "read job /nonexistent/job.json");
}
