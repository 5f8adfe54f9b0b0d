//! `terraform/local`, with a real Terraform where there is one: a mesh comes up, is rolled to a new binary, its drift is seen, and it goes.

use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A copy of the module, with a binary and a folder of its own.
struct Module {
    folder: tempfile::TempDir,
    port_base: u16,
}

impl Drop for Module {
    /// Whatever a failed test left running.
    fn drop(&mut self) {
        for home in ["us/1", "eu/1"] {
            let _ = Command::new(self.path("module/scripts/stop.sh")).arg(self.path("mesh").join(home)).status();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        // What an own run of a developer left there is not ours.
        if name.to_string_lossy().starts_with(".terraform") || name == "mesh" || name.to_string_lossy().contains("tfstate") {
            continue;
        }
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &to.join(name));
        } else {
            std::fs::copy(entry.path(), to.join(name)).expect("copied");
        }
    }
}

impl Module {
    /// None, with the reason printed, where there is no Terraform.
    fn open(first_port: u16) -> Option<Module> {
        let version = Command::new("terraform").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            println!("skipped: there is no `terraform` on this machine");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        // The meshes of others may run too.
        let is_free = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let port_base =
            (first_port..first_port + 1000).step_by(200).find(|base| is_free(base + 9) && is_free(base + 103)).expect("a free range");
        let module = Module { folder, port_base };
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../terraform/local"), &module.path("module"));
        std::fs::copy(env!("CARGO_BIN_EXE_meridian"), module.path("meridian")).expect("a binary");
        let init = module.terraform(&["init"]);
        assert!(init.status.success(), "{init:?}");
        Some(module)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn terraform(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("terraform");
        command.current_dir(self.path("module")).args(arguments).arg("-no-color").stdin(Stdio::null());
        command.env("TF_VAR_meridian", self.path("meridian")).env("TF_VAR_folder", self.path("mesh"));
        command.env("TF_VAR_port_base", self.port_base.to_string()).env("TF_IN_AUTOMATION", "1").env("CHECKPOINT_DISABLE", "1");
        command.output().expect("terraform runs")
    }

    fn apply(&self) -> String {
        let output =
            self.terraform(&["apply", "-auto-approve", "-var", r#"regions=["us","eu"]"#, "-var", "nodes=1", "-var", "remove_data=true"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn pid(&self, home: &str) -> u32 {
        let text = std::fs::read_to_string(self.path("mesh").join(home).join("data/node.pid")).expect("a node's id");
        text.trim().parse().expect("a number")
    }
}

/// A zombie does not run: nobody may have waited for it yet.
fn runs(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn the_module_s_own_test_passes() {
    let Some(module) = Module::open(24_000) else { return };
    let output = module.terraform(&["test"]);
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!module.path("mesh").exists(), "destroyed with its data, as asked");
}

#[test]
fn a_new_binary_rolls_the_nodes_and_a_dead_node_is_seen_and_nothing_is_left() {
    let Some(module) = Module::open(25_000) else { return };
    module.apply();
    let first = [module.pid("us/1"), module.pid("eu/1")];
    assert!(first.iter().all(|pid| runs(*pid)));
    assert!(module.apply().contains("0 added, 0 changed, 0 destroyed"), "a second apply leaves the mesh alone");

    // Another program to the hash, the same to the kernel.
    let new = module.path("new");
    std::fs::copy(module.path("meridian"), &new).expect("copied");
    std::fs::OpenOptions::new().append(true).open(&new).and_then(|mut file| file.write_all(b"\n")).expect("changed");
    std::fs::rename(&new, module.path("meridian")).expect("replaced");
    let rolled = module.apply();
    let us_first = rolled.find("us/1 runs the new binary").zip(rolled.find("eu/1 runs the new binary"));
    assert!(us_first.is_some_and(|(us, eu)| us < eu), "{rolled}");
    let second = [module.pid("us/1"), module.pid("eu/1")];
    assert!(second.iter().all(|pid| runs(*pid)) && first.iter().all(|pid| !runs(*pid)));

    let stopped = Command::new(module.path("module/scripts/stop.sh")).arg(module.path("mesh/eu/1")).status().expect("run");
    assert!(stopped.success() && !runs(second[1]));
    assert!(module.apply().contains("A node does not run"), "drift is told");
    let output = module.terraform(&["destroy", "-auto-approve", "-var", "remove_data=true"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!runs(second[0]) && !module.path("mesh").exists());
}
