# Nothing is downloaded: terraform_data is built in.
terraform {
  required_version = ">= 1.9"
}
