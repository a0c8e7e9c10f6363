//! For which processors source distributions are compiled, and which packages are not compiled at all.

use std::fs;

use super::{build, builds, store, Index};
use crate::common::{function, shared};

/// Says for which processors it was compiled, by its own flags, by a variable, and by a compiler that it calls itself.
const NATIVE: &str = r#"
import os, subprocess
flags = ['-march=native', '-mtune=native']
def level(*command):
    said = subprocess.run([*command, '-dM', '-E', '-x', 'c', '/dev/null'], capture_output=True, check=True, text=True).stdout
    return [name in said for name in ('__SSE4_2__', '__AVX2__')]
open('@flags', 'w').write('-O2 -march=native\n')
by_itself = level('/usr/bin/x86_64-linux-gnu-gcc-12', '@@flags'), level('c++', '-mtune=native', '-march=native'), level('gcc', '-march=haswell')
open('honest.py', 'w').write(f'BY_ITSELF = {by_itself}\n')
os.environ['CFLAGS'] = '-march=native'
from setuptools import setup, Extension
setup(name='native', version='1.0', py_modules=['honest'], ext_modules=[
    Extension('by_flags', ['by_flags.c'], extra_compile_args=flags), Extension('by_variable', ['by_variable.c'])])
"#;

/// A module that holds what its compiler was told.
fn levels(module: &str) -> String {
    format!(
        "#include <Python.h>\n#ifdef __SSE4_2__\n#define SSE 1\n#else\n#define SSE 0\n#endif\n#ifdef __AVX2__\n#define AVX 1\n#else\n#define AVX 0\n#endif\nstatic struct PyModuleDef def = {{PyModuleDef_HEAD_INIT, \"{module}\", 0, -1, 0}};\nPyMODINIT_FUNC PyInit_{module}(void) {{ PyObject *m = PyModule_Create(&def); PyModule_AddIntConstant(m, \"SSE\", SSE); PyModule_AddIntConstant(m, \"AVX\", AVX); return m; }}\n"
    )
}

#[test]
fn what_is_compiled_is_for_the_platforms_processors_and_not_for_this_machines() {
    let gantry = store();
    let (flags, variable) = (levels("by_flags"), levels("by_variable"));
    let files: &[(&str, &str)] = &[
        ("setup.py", NATIVE),
        ("by_flags.c", &flags),
        ("by_variable.c", &variable),
    ];
    let index = Index::new(&[("native", "1.0", files)]);
    index.serve(&gantry);
    let code = "import honest, by_flags, by_variable\nprint([(m.SSE, m.AVX) for m in (by_flags, by_variable)], honest.BY_ITSELF)\n";
    let dir = function(code, Some("native\n"));
    builds(&gantry, dir.path(), "native:1");
    let by_itself = |level: &str| format!("({level}, {level}, [True, True])\n");
    let done = gantry.run(&["native:1"]);
    assert_eq!(
        done.stdout,
        "[(1, 0), (1, 0)] ".to_owned() + &by_itself("[True, False]"),
        "{}",
        done.stderr
    );
    // For other processors it is another wheel.
    let config = gantry.home.join(".config/gantry/config.toml");
    fs::write(
        &config,
        fs::read_to_string(&config).unwrap() + "baseline = \"x86-64\"\n",
    )
    .unwrap();
    let (again, _) = builds(&gantry, dir.path(), "native:2");
    assert!(again.stderr.contains("Building native 1.0"), "{}", again.stderr);
    let done = gantry.run(&["native:2"]);
    assert_eq!(
        done.stdout,
        "[(0, 0), (0, 0)] ".to_owned() + &by_itself("[False, False]"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_package_that_shall_only_be_a_wheel_is_not_built() {
    let gantry = shared();
    for line in ["--only-binary :all:", "--only-binary=docopt"] {
        let dir = function("print(1)\n", Some(&format!("{line}\ndocopt==0.6.2\n")));
        let (refused, _) = build(gantry, dir.path(), "binary:1");
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("docopt 0.6.2 has no wheel"),
            "{}",
            refused.stderr
        );
        assert!(
            !refused.stderr.contains("from its source distribution\n"),
            "{}",
            refused.stderr
        );
    }
}
