//! Receives files: `receive DIRECTORY` prints where it listens and its key, for `send_file`, and
//! goes on until its standard input ends.

use landro::{Engine, Grant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1);
    let directory = directory.ok_or("usage: receive DIRECTORY")?;
    let engine = Engine::builder()
        .listen("127.0.0.1:0".parse()?)
        // Whoever comes may write; a real receiver knows the keys of those who may.
        .serve(directory, |_peer| {
            Some(Grant {
                read: false,
                write: true,
            })
        })
        .start()?;
    let listener = engine.listener();
    println!("{} {}", listener.addresses()[0], engine.fingerprint());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    engine.shut_down();
    Ok(())
}
