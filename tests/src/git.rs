//! Real repositories, commits and signatures, made by git and ssh-keygen. (to come)
