//! A wait too short for the timers of tokio, which count in milliseconds.
//!
//! When many messages come in one read, more are on their way, and who reads at once gets them a few at a time: a system
//! call, a wake-up and a packet for each few. A moment later they are there together, and are answered in one write. The
//! moment is kept with a timer of the kernel's that wakes the connection's task like a socket does; where there is none,
//! nobody waits.

/// How long.
#[cfg(target_os = "linux")]
const MOMENT: std::time::Duration = std::time::Duration::from_micros(100);

/// The wait of one connection.
#[derive(Default)]
pub(super) struct Pause {
    running: bool,
    #[cfg(target_os = "linux")]
    timer: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
    /// The system gave no timer, and is not asked again.
    #[cfg(target_os = "linux")]
    none: bool,
}

impl Pause {
    /// Whether the moment is not over yet.
    pub(super) fn running(&self) -> bool {
        self.running
    }
}

#[cfg(target_os = "linux")]
impl Pause {
    /// Begins the wait.
    pub(super) fn begin(&mut self) {
        use rustix::time::{
            Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
            timerfd_settime,
        };
        if self.timer.is_none() && !self.none {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            self.timer = timerfd_create(TimerfdClockId::Monotonic, flags)
                .ok()
                .and_then(|fd| async_fd(fd));
            self.none = self.timer.is_none();
        }
        let Some(timer) = &self.timer else { return };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(MOMENT.subsec_nanos()),
            },
        };
        self.running = timerfd_settime(timer, TimerfdTimerFlags::empty(), &once).is_ok();
    }

    /// Waits until it is over. May be dropped and called again.
    pub(super) async fn over(&mut self) {
        if let Some(timer) = &self.timer
            && let Ok(mut ready) = timer.readable().await
        {
            // How often it rang; once, and reading it makes it silent.
            let _ = rustix::io::read(timer, &mut [0; 8]);
            ready.clear_ready();
        }
        self.running = false;
    }
}

/// Has the runtime wake us when the timer rings. What it warns of, and has an unsafe function for instead, is a file
/// descriptor that somebody else closes; this one is ours alone.
#[cfg(target_os = "linux")]
#[expect(deprecated)]
fn async_fd(fd: std::os::fd::OwnedFd) -> Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    tokio::io::unix::AsyncFd::new(fd).ok()
}

#[cfg(not(target_os = "linux"))]
impl Pause {
    pub(super) fn begin(&mut self) {}

    pub(super) async fn over(&mut self) {
        self.running = false;
    }
}
