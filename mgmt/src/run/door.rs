//! The listening port of a process, and what others are told about it.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;

use crate::cli::error::{CliError, CliResult, ExitKind, Trouble};
use crate::config::Place;
use crate::dev::ready;

/// A bound port.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: TcpListener,
    /// `host:port` at which others reach it.
    pub(super) addr: String,
    bound: SocketAddr,
}

impl Door {
    /// Binds the port. Before any other of the process: one that may be anywhere must not take the
    /// place of this one, where others look for it.
    pub(super) fn open(place: &Place) -> CliResult<Self> {
        let listen = &place.listen;
        let refused = |error: std::io::Error| {
            CliError::new(Trouble::Process, format!("cannot listen at {listen}"))
                .why(error.to_string())
                .then("choose another address with --listen; port 0 takes any free one")
        };
        let addrs: Vec<SocketAddr> = listen.to_socket_addrs().map_err(refused)?.collect();
        if !place.insecure && addrs.iter().any(|addr| !addr.ip().is_loopback()) {
            return Err(beyond_this_machine(listen));
        }
        let listener = TcpListener::bind(&addrs[..]).map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        let addr = match &place.advertise {
            Some(addr) => addr.clone(),
            None if bound.ip().is_unspecified() => return Err(no_address(listen)),
            None => bound.to_string(),
        };
        tracing::info!("listening at {bound}, reached at {addr}");
        Ok(Self { listener, addr, bound })
    }

    /// Says in a file that the ports are bound.
    pub(super) fn tell(&self, ready_file: &Path, admin: Option<SocketAddr>) -> CliResult {
        let written = ready::write(ready_file, &ready::text(self.bound, admin));
        written.map_err(|error| CliError::file("write", ready_file, &error))
    }

    /// The bound port, for one core after the other.
    pub(super) fn take(&self) -> CliResult<TcpListener> {
        self.listener.try_clone().map_err(|error| {
            CliError::new(Trouble::Process, "cannot share the listening port")
                .why(error.to_string())
        })
    }
}

fn beyond_this_machine(listen: &str) -> CliError {
    let what = format!("refusing to listen at {listen}, beyond this machine");
    let mut error = CliError::new(Trouble::Config, what)
        .why("connections are not encrypted yet: anybody who reaches the port reads and writes all")
        .then("listen at 127.0.0.1, or accept that with --insecure");
    error.exit = ExitKind::Refused;
    error
}

fn no_address(listen: &str) -> CliError {
    CliError::new(Trouble::Config, format!("nobody could find this process at {listen}"))
        .why("it listens at all addresses of the machine, and others need one")
        .then("name it with --advertise HOST:PORT")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn place(listen: &str) -> Place {
        Place {
            dir: PathBuf::new(),
            listen: listen.to_owned(),
            advertise: None,
            insecure: false,
            admin: None,
            log: String::new(),
        }
    }

    #[test]
    fn the_ready_file_names_the_port_that_was_taken() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("ready");
        let door = Door::open(&place("127.0.0.1:0")).expect("bound");
        door.tell(&path, None).expect("written");
        let text = std::fs::read_to_string(&path).expect("written");
        assert_eq!(
            ready::addr(&text).expect("address"),
            door.listener.local_addr().expect("bound")
        );
        assert_eq!(text.trim(), door.addr);
    }

    #[test]
    fn an_address_beyond_this_machine_needs_consent_and_a_name() {
        let error = Door::open(&place("0.0.0.0:0")).expect_err("refused");
        assert_eq!(error.exit, ExitKind::Refused);
        let open = Place { insecure: true, ..place("0.0.0.0:0") };
        let error = Door::open(&open).expect_err("no name");
        assert!(error.then.contains("--advertise"), "{error}");
        let named = Place { advertise: Some("db1:1187".to_owned()), ..open };
        assert_eq!(Door::open(&named).expect("bound").addr, "db1:1187");
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = Door::open(&place("127.0.0.1:0")).expect("bound");
        let error = Door::open(&place(&first.addr)).expect_err("taken");
        assert!(error.what.ends_with(&first.addr), "{error}");
    }
}
