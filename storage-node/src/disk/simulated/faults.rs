//! Faults on order, and power that fails at a given operation.

use std::io;

use super::SimulatedDisk;

/// What a disk is asked to do, as far as faults tell operations apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Read,
    Write,
    /// Of a file or of the directory.
    Sync,
    Create,
    /// Renaming or removing.
    Name,
}

/// An error in waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub operation: Operation,
    /// How many such operations still succeed.
    pub after: u64,
    /// How many fail then; after that the disk is well again.
    pub times: u64,
    /// Number of the operating system's error.
    pub error: i32,
}

impl Fault {
    pub const EIO: i32 = 5;
    pub const ENOSPC: i32 = 28;
}

#[derive(Default)]
pub(super) struct Faults {
    planned: Vec<Fault>,
    /// Operations that changed something, so far.
    changes: u64,
    cut_power_at: Option<u64>,
}

impl Faults {
    /// Counts an operation and says whether it fails.
    pub(super) fn check(&mut self, operation: Operation) -> io::Result<()> {
        if self.cut_power_at.is_some_and(|at| self.changes >= at) {
            // The one at which it fails is told from those after it.
            self.changes += u64::from(operation != Operation::Read);
            return Err(no_power());
        }
        self.changes += u64::from(operation != Operation::Read);
        for fault in self.planned.iter_mut().filter(|fault| fault.operation == operation) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                return Err(io::Error::from_raw_os_error(fault.error));
            }
        }
        Ok(())
    }

    pub(super) fn power_is_off(&self) -> bool {
        self.cut_power_at.is_some_and(|at| self.changes >= at)
    }

    /// Whether the operation that was just checked is the one at which the power fails.
    pub(super) fn power_fails_now(&self) -> bool {
        self.cut_power_at.is_some_and(|at| self.changes == at + 1)
    }
}

impl SimulatedDisk {
    /// Plans a fault. [`crash`](Self::crash) and [`kill`](Self::kill) forget it.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.planned.push(fault);
    }

    /// Planned faults that did not come to pass yet, counted one by one.
    pub fn faults_left(&self) -> u64 {
        self.state().faults.planned.iter().map(|fault| fault.times).sum()
    }

    /// What did not come to pass yet never will.
    pub fn forget_faults(&self) {
        self.state().faults.planned.clear();
    }

    /// Lets `operations` more changing operations succeed and then cuts the power.
    pub fn cut_power_at(&self, operations: u64) {
        let faults = &mut self.state().faults;
        faults.cut_power_at = Some(faults.changes + operations);
    }

    /// Changing operations so far in this life.
    pub fn changes(&self) -> u64 {
        self.state().faults.changes
    }
}

pub(super) fn no_power() -> io::Error {
    io::Error::other("the simulated machine has no power")
}

pub(super) fn no_space() -> io::Error {
    io::Error::from_raw_os_error(Fault::ENOSPC)
}

pub(super) fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}
