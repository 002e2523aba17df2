//! What init does for the agent.

use std::fs;

use node_manager::init::record::{self, ExitStatus, FileId, SpawnStage};

use crate::world::{World, command};

pub fn files_appear_whole_at_their_places() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    for &file in FileId::ALL {
        let (directory, name, mode) = file.place();
        let directory = match directory {
            record::Directory::Gridpilot => "/etc/gridpilot",
            record::Directory::Ssh => "/home/grid/.ssh",
        };
        for content in ["first\n", "second\n"] {
            assert_eq!(inside.put(file, content.as_bytes()), record::Notice::Done, "{file:?}");
            let output = inside.shell(&format!("cat {directory}/{name}; stat -c %a {directory}/{name}"));
            assert_eq!(output.text, format!("{content}{mode:o}\n"));
        }
        assert_eq!(inside.shell(&format!("ls -A {directory} | grep -c new")).text, "0\n");
    }
    assert_eq!(inside.shell("cat /etc/hosts").text, "second\n");
    let too_long = vec![b'x'; record::FILE_BYTES_MAX + 1];
    assert_eq!(inside.put(FileId::Hosts, &too_long), record::Notice::Failed { errno: libc_efbig() });
    assert_eq!(inside.shell("cat /etc/hosts").text, "second\n");
}

pub fn libc_efbig() -> i32 {
    nix::errno::Errno::EFBIG as i32
}

pub fn commands_start_once_and_report_how_they_ended() {
    let world = World::new();
    let pilot = world.pilot();
    let mut inside = pilot.build(&world, &pilot.grant());
    assert_eq!(inside.shell("exit 42").status, ExitStatus::Code(42));
    assert_eq!(inside.shell("kill -SEGV $$").status, ExitStatus::Signal(11));
    let verbatim = inside.run(&["printf", "[%s]", "-x", "a b", "$HOME", "\n;"]);
    assert_eq!(verbatim.text, "[-x][a b][$HOME][\n;]");
    for (program, cwd, stage, errno) in [
        (&["no-such-program"][..], "/", SpawnStage::Exec, 2),
        (&["/etc/passwd"], "/", SpawnStage::Exec, 13),
        (&["true"], "/no/such", SpawnStage::Cwd, 2),
    ] {
        let (id, _) = inside.spawn(&record::Command { cwd: vec![cwd.into()], ..command(program) });
        assert_eq!(inside.answer(), record::Notice::SpawnFailed { id, stage, errno }, "{program:?}");
    }
    let elsewhere =
        record::Command { cwd: vec![b"/no/such".to_vec(), b"/usr".to_vec()], ..command(&["pwd"]) };
    let (_, output) = inside.spawn(&elsewhere);
    assert_eq!(std::io::read_to_string(fs::File::from(output)).unwrap(), "/usr\n");
    assert!(matches!(inside.answer(), record::Notice::Spawned { .. }));
    assert!(matches!(inside.answer(), record::Notice::Exited { status: ExitStatus::Code(0), .. }));
    let request = record::Request::Spawn { id: 1 }.encode();
    node_manager::channel::send(&inside.socket, &request, &[]).unwrap();
    let repeated = record::Notice::SpawnFailed { id: 1, stage: SpawnStage::Repeated, errno: 17 };
    assert_eq!(inside.answer(), repeated);
    // Orphans are reaped.
    inside.shell("for i in 1 2 3 4 5; do (sleep 0.05 &) ; done");
    assert_eq!(inside.shell("sleep 0.3; ps -e -o stat= | grep -c Z").text, "0\n");
}
