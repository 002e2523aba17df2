//! A process of its own that works for a measurement: told one line at a time over its standard
//! input, answering each with one line. It ends, and everything it holds, when its input does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The process, as its master sees it; dropping it ends it and waits.
pub struct Helper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts this very program with these arguments; it answers "ready" first.
    pub fn start(arguments: &[&str]) -> Result<Helper> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a helper")?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut helper = Helper { child, orders, answers };
        helper.answer()?;
        Ok(helper)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order whose answer is fetched later.
    pub fn tell(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders.as_mut().context("no stdin")?, "{order}").context("a helper is gone")
    }

    /// The numbers of the next answer.
    pub fn answer(&mut self) -> Result<Vec<f64>> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "a helper is gone");
        match line.trim_end().split_once(' ') {
            Some(("failed", why)) => bail!("{why}"),
            Some((_, numbers)) => Ok(numbers.split(' ').map(str::parse).collect::<Result<_, _>>()?),
            None => Ok(Vec::new()),
        }
    }

    /// Gives an order and waits for its answer.
    pub fn order(&mut self, order: &str) -> Result<Vec<f64>> {
        self.tell(order)?;
        self.answer()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// Answers orders until there are no more.
pub fn serve(mut obey: impl FnMut(&[&str]) -> Result<Vec<f64>>) -> Result<()> {
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        match obey(&line.split(' ').collect::<Vec<_>>()) {
            Ok(numbers) => {
                let words: Vec<String> = numbers.iter().map(f64::to_string).collect();
                println!("{}", ["done".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" "));
            }
            Err(error) => println!("failed {}", format!("{error:#}").replace('\n', "; ")),
        }
    }
    Ok(())
}
