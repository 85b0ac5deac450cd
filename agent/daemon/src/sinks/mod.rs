//! Where reports may go, and in which shape each place wants them: pure, from a report to requests that the courier sends.
