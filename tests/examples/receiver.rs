//! A receiver of reports as a program, for the lab's machines: `receiver PORT FOLDER`.

fn main() {
    let mut words = std::env::args().skip(1);
    let port = words.next().and_then(|port| port.parse().ok()).expect("because the test gives a port");
    let folder = words.next().expect("because the test gives a folder");
    trimtab_tests::receiver::Receiver::serve(port, folder.into());
}
