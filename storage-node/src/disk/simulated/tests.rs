use super::*;

fn write(file: &dyn DiskFile, at: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(at, &[IoSlice::new(bytes)])
}

#[test]
fn what_was_synced_survives_and_the_rest_may() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimulatedDisk::new();
        let file = disk.create("a", 16 << 10).unwrap();
        disk.sync_dir().unwrap();
        write(&*file, 0, &[1; 8192]).unwrap();
        file.sync().unwrap();
        write(&*file, 4096, &[2; 4096]).unwrap();
        disk.crash(&mut rng);
        let bytes = disk.bytes("a").unwrap();
        assert_eq!(bytes[..4096], [1; 4096]);
        match bytes[4096..8192].iter().filter(|b| **b == 2).count() {
            0 => lost += 1,
            4096 => kept += 1,
            mixed => {
                assert_eq!(mixed % 512, 0);
                torn += 1;
            }
        }
        assert!(write(&*file, 0, b"x").is_err(), "the handle is of an earlier life");
    }
    assert!(kept > 20 && lost > 20 && torn > 20, "{kept} {lost} {torn}");
}

#[test]
fn names_are_durable_with_their_directory() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        disk.put("marker", b"old");
        crate::disk::replace_file(&disk, "other", b"x").unwrap();
        let file = disk.create("marker.new", 3).unwrap();
        write(&*file, 0, b"new").unwrap();
        file.sync().unwrap();
        disk.rename("marker.new", "marker").unwrap();
        disk.crash(&mut fastrand::Rng::with_seed(seed));
        match &disk.bytes("marker").unwrap()[..] {
            b"old" => old += 1,
            b"new" => new += 1,
            other => panic!("{other:?}"),
        }
        assert_eq!(disk.bytes("other").unwrap(), b"x");
    }
    assert!(old > 0 && new > 0);
}

#[test]
fn power_fails_at_an_operation_and_stays_off() {
    let disk = SimulatedDisk::new();
    disk.cut_power_at(2);
    let file = disk.create("a", 4096).unwrap();
    write(&*file, 0, b"x").unwrap();
    assert!(file.sync().is_err() && write(&*file, 0, b"x").is_err() && disk.open("a").is_err());
    disk.crash(&mut fastrand::Rng::with_seed(1));
    assert!(disk.list().is_ok());
}

#[test]
fn faults_come_when_they_are_told_to() {
    let disk = SimulatedDisk::new();
    let file = disk.create("a", 4096).unwrap();
    disk.inject(Fault { operation: Operation::Sync, after: 1, times: 1, error: Fault::EIO });
    assert!(file.sync().is_ok());
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(Fault::EIO));
    assert!(file.sync().is_ok(), "which is why nobody may try again");
    disk.set_capacity(Some(8192));
    assert_eq!(disk.create("b", 4097).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(disk.create("b", 4096).is_ok());
    disk.flip_bit("a", 9);
    assert_eq!(disk.bytes("a").unwrap()[..2], [0, 2]);
}

#[test]
fn one_seed_one_fate() {
    let fate = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimulatedDisk::new();
        let file = disk.create("a", 64 << 10).unwrap();
        disk.sync_dir().unwrap();
        (0..16).for_each(|page| write(&*file, page * 4096, &[page as u8 + 1; 4096]).unwrap());
        disk.crash(&mut rng);
        disk.bytes("a")
    };
    assert_eq!(fate(7), fate(7));
    assert_ne!(fate(7), fate(8));
}
